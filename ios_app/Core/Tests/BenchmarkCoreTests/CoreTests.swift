import XCTest

@testable import BenchmarkCore

final class CoreTests: XCTestCase {
    private var documents = URL(fileURLWithPath: "/")

    override func setUpWithError() throws {
        documents = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: documents, withIntermediateDirectories: true)
        try Data("model".utf8).write(to: documents.appendingPathComponent("m.pte"))
        let values: [Float] = [0, 1, 2, 3, 4, 5]
        try values.withUnsafeBytes { Data($0) }.write(to: documents.appendingPathComponent("x.bin"))
    }

    override func tearDownWithError() throws {
        try FileManager.default.removeItem(at: documents)
    }

    private func words(_ more: String...) -> [String] {
        [
            "--engine", "executorch", "--model", "m.pte", "--input", "x.bin:float32:2,3", "--warmup", "2",
            "--iterations", "6",
        ] + more
    }

    private func document(_ name: String) throws -> [String: Any] {
        let data = try Data(contentsOf: documents.appendingPathComponent("runs/\(name)/result.json"))
        return try XCTUnwrap(JSONSerialization.jsonObject(with: data) as? [String: Any])
    }

    private func carryOut(_ words: [String], _ engine: FakeEngine, disturbed: String? = nil) throws {
        try Job.carryOut(
            "a", words, documents: documents, runner: "test 1", engine: { _ in engine }, disturbed: { disturbed })
    }

    func testARunIsTimedAndItsOutputsAreKept() throws {
        let engine = FakeEngine(sleep: 0.004)
        try carryOut(words("--outputs"), engine)
        let found = try document("a")
        let samples = try XCTUnwrap(found["samples_ns"] as? [Int])
        let warmup = try XCTUnwrap(found["warmup_ns"] as? [Int])
        XCTAssertEqual(warmup.count, 2)
        XCTAssertEqual(samples.count, 6)
        XCTAssertGreaterThanOrEqual(try XCTUnwrap((warmup + samples).min()), 4_000_000)
        XCTAssertGreaterThanOrEqual(try XCTUnwrap(found["load_ns"] as? Int), 8_000_000)
        XCTAssertEqual(found["first_ns"] as? Int, warmup[0])
        XCTAssertEqual(found["engine"] as? String, "executorch")
        XCTAssertEqual(found["schema"] as? Int, 1)
        XCTAssertTrue(found["affinity"] is NSNull)
        let kept = try Data(contentsOf: documents.appendingPathComponent("runs/a/0.bin"))
        XCTAssertEqual(kept.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }, [0, 2, 4, 6, 8, 10])
        XCTAssertEqual(
            engine.calls, ["start", "load", "prepare"] + Array(repeating: "run", count: 8) + ["outputs", "close"])
    }

    func testOutputsThatNobodyAskedForAreNotKept() throws {
        try carryOut(words(), FakeEngine())
        let outputs = try XCTUnwrap(try document("a")["outputs"] as? [[String: Any]])
        XCTAssertTrue(outputs[0]["file"] is NSNull)
        XCTAssertEqual(outputs[0]["shape"] as? [Int], [2, 3])
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: documents.path + "/runs/a"), ["result.json"])
    }

    func testWhatIsWrongIsLeftInOneLineAndTheEngineIsClosed() throws {
        for step in ["start", "load", "prepare", "run", "outputs"] {
            let engine = FakeEngine(failing: step)
            XCTAssertThrowsError(try carryOut(words(), engine))
            let said = try String(contentsOf: documents.appendingPathComponent("runs/a/error.txt"), encoding: .utf8)
            XCTAssertEqual(said, "\(step) is broken\n")
            XCTAssertEqual(engine.calls.last, "close")
            try Job.remove(["a"], documents: documents)
        }
    }

    func testATimeThatWasDisturbedIsNoResult() throws {
        XCTAssertThrowsError(try carryOut(words(), FakeEngine(), disturbed: "the app left the screen"))
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: documents.path + "/runs/a"), ["error.txt"])
    }

    func testOptionsThatAreWrong() {
        let cases: [([String], String)] = [
            (["--threads", "0"], "--threads is a number from 1 to 1024, not '0'"),
            (["--units", "gpu"], "there is no choice of units called 'gpu'"),
            (["--speed", "1"], "there is no option '--speed'"),
            (["--threads"], "--threads needs a value"),
            (["--model", "other"], "--model is given twice"),
        ]
        for (more, message) in cases {
            XCTAssertThrowsError(try Options.parse(words() + more, in: documents)) {
                XCTAssertTrue("\($0)".hasPrefix(message), "\($0)")
            }
        }
        XCTAssertThrowsError(try Options.parse(["--engine", "onnx", "--model", "m"], in: documents)) {
            XCTAssertEqual("\($0)", "there is no engine called 'onnx', but coreml, executorch")
        }
        XCTAssertThrowsError(try Options.parse(["--engine", "coreml"], in: documents))
    }

    func testInputsThatAreWrong() {
        let cases = [
            "x.bin": "an input is FILE:DTYPE:SIZES, not 'x.bin'",
            "x.bin:float31:2,3": "there is no element type called 'float31'",
            "x.bin:float32:2,4": "'x.bin' has 24 bytes; float32 of 2,4 has 32",
            "x.bin:float32:2,-3": "'2,-3' is no shape, such as 1,3,224,224",
            "y.bin:float32:1": "there is no file 'y.bin' that can be read",
            "float32:999999999,999999999,999999999":
                "the input 'float32:999999999,999999999,999999999' is larger than 1073741824 bytes",
        ]
        for (text, message) in cases {
            XCTAssertThrowsError(try Tensor.read(text, in: documents)) { XCTAssertEqual("\($0)", message) }
        }
    }

    func testAnInputWithoutAFileIsTheSameEveryTime() throws {
        let first = try Tensor.read("float32:10", in: documents)
        XCTAssertEqual(first, try Tensor.read("float32:10", in: documents))
        let values = first.data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        XCTAssertEqual(Set(values).count, 10)
        XCTAssertTrue(values.allSatisfy { abs($0) <= 1 })
        XCTAssertEqual(try Tensor.read("int64:", in: documents).data, Data(count: 8))
    }

    func testElementsWithGapsBecomeContiguous() throws {
        let padded: [Int32] = [0, 1, 2, -1, 3, 4, 5, -1]
        let found = try padded.withUnsafeBytes {
            try Tensor.gather(type: .int32, shape: [2, 3], strides: [4, 1], from: $0)
        }
        XCTAssertEqual(found.data.withUnsafeBytes { Array($0.bindMemory(to: Int32.self)) }, [0, 1, 2, 3, 4, 5])
        XCTAssertThrowsError(
            try padded.withUnsafeBytes { try Tensor.gather(type: .int32, shape: [3, 3], strides: [4, 1], from: $0) })
        let scalar = try padded.withUnsafeBytes { try Tensor.gather(type: .int32, shape: [], strides: [], from: $0) }
        XCTAssertEqual(scalar.data.count, 4)
    }

    func testStatistics() {
        let found = Summary([4_000_000, 1_000_000, 2_000_000, 3_000_000])
        XCTAssertEqual(found.mean, 2.5)
        XCTAssertEqual(found.p50, 2.5)
        XCTAssertEqual(found.p90, 3.7, accuracy: 1e-12)
        XCTAssertEqual(try XCTUnwrap(found.std), 1.2909944487358056, accuracy: 1e-12)
        XCTAssertNil(Summary([1]).std)
    }

    func testArgumentsAskForAJob() throws {
        XCTAssertEqual(
            try Job.parse(["run", "a-1", "--engine", "coreml"]), .run(name: "a-1", words: ["--engine", "coreml"]))
        XCTAssertEqual(try Job.parse(["state", "b"]), .state(name: "b"))
        XCTAssertEqual(try Job.parse(["remove", "b", "deploykit-1"]), .remove(names: ["b", "deploykit-1"]))
        XCTAssertNil(try Job.parse([]))
        XCTAssertNil(try Job.parse(["-NSDocumentRevisionsDebugMode", "YES"]))
        XCTAssertThrowsError(try Job.parse(["run", "../x"]))
        XCTAssertThrowsError(try Job.parse(["remove", "deploykit-1/.."]))
        XCTAssertThrowsError(try Job.parse(["state"]))
    }

    func testRemovingTakesRunsAndTheHarnesssFoldersAndNothingElse() throws {
        for name in ["deploykit-1", "mine", "runs/a"] {
            let folder = documents.appendingPathComponent(name)
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        }
        try Job.remove(["deploykit-1", "mine", "a", "none"], documents: documents)
        let left = try FileManager.default.contentsOfDirectory(atPath: documents.path).sorted()
        XCTAssertEqual(left, ["m.pte", "mine", "runs", "x.bin"])
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: documents.path + "/runs"), [])
    }

    func testFoldersThatAHarnessForgotGoAfterADay() throws {
        let folder = documents.appendingPathComponent("deploykit-1")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        Job.removeStale(documents: documents, now: Date().addingTimeInterval(23 * 3600))
        XCTAssertTrue(FileManager.default.fileExists(atPath: folder.path))
        Job.removeStale(documents: documents, now: Date().addingTimeInterval(25 * 3600))
        XCTAssertFalse(FileManager.default.fileExists(atPath: folder.path))
        XCTAssertTrue(FileManager.default.fileExists(atPath: documents.appendingPathComponent("m.pte").path))
    }

    func testTheStateSaysWhatThePhoneDoesNotTell() throws {
        let state = PhoneState(batteryPercent: 87, charging: false, thermal: "fair")
        try Job.tell(state, "s", documents: documents)
        let data = try Data(contentsOf: documents.appendingPathComponent("runs/s/state.json"))
        let found = try XCTUnwrap(JSONSerialization.jsonObject(with: data) as? [String: Any])
        XCTAssertEqual(found["thermal"] as? String, "fair")
        XCTAssertEqual(found["battery_percent"] as? Double, 87)
        XCTAssertTrue(found["low_power_mode"] is NSNull)
        XCTAssertThrowsError(try Job.tell(state, "s", documents: documents), "a name is used once")
    }

    func testADamagedPackage() throws {
        let package = documents.appendingPathComponent("m.mlpackage")
        XCTAssertThrowsError(try PackageInterface.read(package: package))
        let inside = package.appendingPathComponent("Data/com.apple.CoreML")
        try FileManager.default.createDirectory(at: inside, withIntermediateDirectories: true)
        for bytes: [UInt8] in [
            [], [0x12], [0x12, 0x05, 0x0a], [0xff, 0xff, 0xff],
            [0x12, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
        ] {
            try Data(bytes).write(to: inside.appendingPathComponent("model.mlmodel"))
            XCTAssertThrowsError(try PackageInterface.read(package: package))
        }
        let model: [UInt8] = [0x08, 0x07, 0x12, 0x0a, 0x0a, 0x03, 0x0a, 0x01, 0x78, 0x52, 0x03, 0x0a, 0x01, 0x79]
        try Data(model).write(to: inside.appendingPathComponent("model.mlmodel"))
        XCTAssertEqual(try PackageInterface.read(package: package), PackageInterface(inputs: ["x"], outputs: ["y"]))
    }
}
