import BenchmarkCore
import SwiftUI
import UIKit

/// One thing at a time that the app does: what its arguments ask for, or what a person chooses on the screen.
@MainActor
final class Session: ObservableObject {
    static let runner = "deploykit-ios 1"
    static let documents = FileManager.default.urls(for: .documentDirectory, in: .userDomainMask)[0]

    @Published private(set) var running = false
    @Published private(set) var said = ""
    @Published private(set) var models: [String] = []
    private var begun = false
    private let watch = Watch()

    /// Begins what the arguments ask for, once, when the app is in front: only then has it the fast cores.
    func becameActive() {
        listModels()
        if begun {
            return
        }
        begun = true
        Job.removeStale(documents: Self.documents)
        do {
            if let job = try Job.parse(Array(CommandLine.arguments.dropFirst())) {
                try begin(job)
            }
        } catch {
            said = "\(error)"
        }
    }

    /// The app is no longer in front: what is measured now is worthless.
    func resignedActive() {
        watch.disturb("the app left the screen while it measured")
    }

    /// Starts a run that a person chose.
    func start(_ options: [String]) {
        begin("by-hand-\(Int(Date().timeIntervalSince1970))", options)
    }

    /// Removes the files of all runs.
    func removeRuns() {
        try? FileManager.default.removeItem(at: Self.documents.appendingPathComponent("runs"))
        said = "The runs were deleted."
    }

    private func begin(_ job: Job) throws {
        switch job {
        case .run(let name, let words):
            begin(name, words)
        case .state(let name):
            try Job.tell(Phone.state(), name, documents: Self.documents)
            said = "The phone's state was asked for."
        case .remove(let names):
            try Job.remove(names, documents: Self.documents)
            said = "Files were removed."
        }
    }

    private func begin(_ name: String, _ words: [String]) {
        guard !running else {
            return
        }
        running = true
        said = "Measuring"
        UIApplication.shared.isIdleTimerDisabled = true
        watch.begin()
        let (documents, runner, watch) = (Self.documents, Self.runner, watch)
        let thread = Thread {
            let text: String
            do {
                let result = try Job.carryOut(
                    name, words, documents: documents, runner: runner, engine: makeEngine, disturbed: watch.reason)
                text = describe(result, name)
            } catch {
                text = "\(error)"
            }
            Task { @MainActor in self.finished(text) }
        }
        thread.qualityOfService = .userInteractive
        thread.stackSize = 8 << 20
        thread.start()
    }

    private func finished(_ text: String) {
        running = false
        said = text
        UIApplication.shared.isIdleTimerDisabled = false
        listModels()
    }

    private func listModels() {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: Self.documents.path)) ?? []
        models = names.filter { runtime(of: $0) != nil }.sorted()
    }
}

/// The runtime that a file is for, by its name.
func runtime(of model: String) -> Runtime? {
    Runtime.allCases.first { model.hasSuffix(".\($0.suffix)") }
}

private func makeEngine(_ options: Options) -> any Engine {
    switch options.runtime {
    case .coreml: return CoreMLEngine(units: options.units)
    case .executorch: return ExecuTorchEngine()
    }
}

private func describe(_ result: BenchmarkCore.Result, _ name: String) -> String {
    let found = Summary(result.samples)
    let std = found.std.map { String(format: "%.2f", $0) } ?? "-"
    return String(
        format:
            "%@\np50 %.2f ms, mean %.2f, std %@, p90 %.2f, min %.2f, max %.2f\nfirst %.2f ms, load %.1f ms\nruns/%@",
        result.version, found.p50, found.mean, std, found.p90, found.min, found.max, Double(result.first) / 1e6,
        Double(result.load) / 1e6, name)
}

/// What disturbed a run, told by one thread and asked by another.
private final class Watch: @unchecked Sendable {
    private let lock = NSLock()
    private var told: String?

    func begin() {
        lock.withLock { told = nil }
    }

    func disturb(_ reason: String) {
        lock.withLock { told = reason }
    }

    func reason() -> String? {
        lock.withLock { told }
    }
}
