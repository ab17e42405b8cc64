import Foundation

/// What the app is started for, by its arguments: `run NAME OPTIONS...`, `state NAME` or `remove NAME...`.
///
/// A run leaves `runs/NAME/result.json` and the outputs, or `runs/NAME/error.txt`, one line of what went wrong; when one
/// of the two is there, it has ended. A state is `runs/NAME/state.json`. `remove` takes folders of runs away, and those
/// that the harness made.
public enum Job: Equatable {
    case run(name: String, words: [String])
    case state(name: String)
    case remove(names: [String])

    /// Reads the app's arguments; nil where they ask for nothing, as when a person opens it.
    public static func parse(_ arguments: [String]) throws -> Job? {
        guard let verb = arguments.first, ["run", "state", "remove"].contains(verb) else {
            return nil
        }
        let rest = Array(arguments.dropFirst())
        if verb == "remove" {
            return .remove(names: try rest.map(checked))
        }
        guard let name = rest.first else {
            throw RunnerError("\(verb) needs a name")
        }
        return verb == "run"
            ? .run(name: try checked(name), words: Array(rest.dropFirst())) : .state(name: try checked(name))
    }

    /// The folder of a run's files, which is new.
    public static func makeFolder(_ name: String, in documents: URL) throws -> URL {
        let runs = documents.appendingPathComponent("runs")
        let folder = runs.appendingPathComponent(try checked(name))
        do {
            try FileManager.default.createDirectory(at: runs, withIntermediateDirectories: true)
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: false)
        } catch {
            throw RunnerError.from("the folder of the run '\(name)' cannot be made", error)
        }
        return folder
    }

    /// Carries a run out, and leaves its files.
    ///
    /// - Parameters:
    ///   - documents: what names of files are relative to; the runs' folders are in its `runs`.
    ///   - engine: makes the engine that the options ask for.
    ///   - disturbed: what happened that makes the times worthless, or nil; asked at the end.
    @discardableResult
    public static func carryOut(
        _ name: String, _ words: [String], documents: URL, runner: String, engine: (Options) throws -> any Engine,
        disturbed: () -> String?
    ) throws -> Result {
        let folder = try makeFolder(name, in: documents)
        do {
            let options = try Options.parse(words, in: documents)
            let result = try Benchmark.measure(
                options, engine: try engine(options), names: documents, keepIn: options.outputs ? folder : nil,
                runner: runner)
            if let reason = disturbed() {
                throw RunnerError(reason)
            }
            try write(try result.json(), to: folder.appendingPathComponent("result.json"))
            return result
        } catch {
            let told = RunnerError.from("the run failed", error)
            try write(Data("\(told.message)\n".utf8), to: folder.appendingPathComponent("error.txt"))
            throw told
        }
    }

    /// Leaves the phone's state in a run's folder, which is made.
    public static func tell(_ state: PhoneState, _ name: String, documents: URL) throws {
        let folder = try makeFolder(name, in: documents)
        try write(try encoded(state), to: folder.appendingPathComponent("state.json"))
    }

    /// Removes folders of runs, and those that the harness made, by their names.
    public static func remove(_ names: [String], documents: URL) throws {
        for name in names {
            for parent in [documents.appendingPathComponent("runs"), documents]
            where parent != documents || isOurs(name) {
                let folder = parent.appendingPathComponent(try checked(name))
                if FileManager.default.fileExists(atPath: folder.path) {
                    try FileManager.default.removeItem(at: folder)
                }
            }
        }
    }

    /// Removes folders that the harness made and could not take away, because the phone was gone or locked by then.
    public static func removeStale(documents: URL, now: Date = Date()) {
        let files = FileManager.default
        let found = (try? files.contentsOfDirectory(atPath: documents.path)) ?? []
        for name in found where isOurs(name) {
            let folder = documents.appendingPathComponent(name)
            let changed = (try? files.attributesOfItem(atPath: folder.path))?[.modificationDate] as? Date
            if let changed, now.timeIntervalSince(changed) > stale {
                try? files.removeItem(at: folder)
            }
        }
    }

    /// Seconds after which no harness still needs its folder.
    private static let stale: TimeInterval = 24 * 3600

    private static func isOurs(_ name: String) -> Bool {
        name.hasPrefix("deploykit-")
    }

    private static func checked(_ name: String) throws -> String {
        let letters = name.unicodeScalars.allSatisfy {
            ("a"..."z").contains($0) || ("A"..."Z").contains($0) || ("0"..."9").contains($0) || $0 == "-" || $0 == "_"
        }
        guard (1...64).contains(name.count), letters else {
            throw RunnerError("a run's name is of letters, digits, - and _, not '\(name)'")
        }
        return name
    }
}
