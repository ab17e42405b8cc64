import Foundation

/// The processors that CoreML may use, by the names of `MLComputeUnits`.
public enum ComputeUnits: String, CaseIterable {
    case all, cpuOnly, cpuAndGPU, cpuAndNeuralEngine
}

/// The runtimes of the app, by the names of the targets whose artifacts they run.
public enum Runtime: String, CaseIterable {
    case coreml, executorch

    /// What the names of its files end with.
    public var suffix: String {
        switch self {
        case .coreml: return "mlpackage"
        case .executorch: return "pte"
        }
    }
}

/// What a run is asked for.
public struct Options: Equatable {
    public var runtime: Runtime
    public var model: URL
    public var inputs: [String] = []
    public var threads = 1
    public var warmup = 10
    public var iterations = 50
    public var units = ComputeUnits.all
    public var outputs = false

    public init(runtime: Runtime, model: URL) {
        self.runtime = runtime
        self.model = model
    }

    /// Reads a runner's options.
    ///
    /// - Parameters:
    ///   - words: `--engine NAME --model FILE [--input TEXT]... [--threads N] [--warmup N] [--iterations N]
    ///     [--units NAME] [--outputs]`.
    ///   - folder: what names of files are relative to.
    public static func parse(_ words: [String], in folder: URL) throws -> Options {
        var values: [String: String] = [:]
        var inputs: [String] = []
        var outputs = false
        var rest = words[...]
        while let word = rest.popFirst() {
            if word == "--outputs" {
                outputs = true
                continue
            }
            guard ["--engine", "--model", "--input", "--threads", "--warmup", "--iterations", "--units"].contains(word)
            else {
                throw RunnerError("there is no option '\(word)'")
            }
            guard let value = rest.popFirst() else {
                throw RunnerError("\(word) needs a value")
            }
            if word == "--input" {
                inputs.append(value)
            } else if values.updateValue(value, forKey: word) != nil {
                throw RunnerError("\(word) is given twice")
            }
        }
        let runtime = try named(Runtime.self, values["--engine"] ?? "", "engine")
        guard let model = values["--model"], !model.isEmpty else {
            throw RunnerError("--model is missing")
        }
        var options = Options(runtime: runtime, model: place(model, in: folder))
        options.inputs = inputs
        options.outputs = outputs
        options.threads = try number(values, "--threads", 1...1024, options.threads)
        options.warmup = try number(values, "--warmup", 0...100_000, options.warmup)
        options.iterations = try number(values, "--iterations", 1...1_000_000, options.iterations)
        options.units = try named(ComputeUnits.self, values["--units"] ?? options.units.rawValue, "choice of units")
        return options
    }

    private static func number(
        _ values: [String: String], _ name: String, _ range: ClosedRange<Int>, _ otherwise: Int
    ) throws -> Int {
        guard let text = values[name] else {
            return otherwise
        }
        guard let value = Int(text), range.contains(value) else {
            throw RunnerError("\(name) is a number from \(range.lowerBound) to \(range.upperBound), not '\(text)'")
        }
        return value
    }

    private static func named<Name: RawRepresentable & CaseIterable>(
        _ type: Name.Type, _ text: String, _ kind: String
    ) throws -> Name where Name.RawValue == String {
        guard let found = Name(rawValue: text) else {
            let known = Name.allCases.map(\.rawValue).joined(separator: ", ")
            throw RunnerError("there is no \(kind) called '\(text)', but \(known)")
        }
        return found
    }
}
