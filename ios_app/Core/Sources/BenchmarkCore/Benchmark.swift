import Foundation

/// The protocol: load, warm-up, timed inferences.
public enum Benchmark {
    /// Runs an artifact and measures what that takes.
    ///
    /// - Parameters:
    ///   - names: what names of inputs are relative to.
    ///   - folder: where the outputs of the last inference are kept; nil keeps none.
    ///   - runner: the name of the program that measures, and its version.
    public static func measure(
        _ options: Options, engine: any Engine, names: URL, keepIn folder: URL?, runner: String
    ) throws -> Result {
        defer { engine.close() }
        let inputs = try options.inputs.map { try Tensor.read($0, in: names) }
        guard FileManager.default.isReadableFile(atPath: options.model.path) else {
            throw RunnerError("there is no file '\(options.model.path)' that can be read")
        }
        try attempt("the runtime cannot be started with the file") {
            try engine.start(model: options.model, threads: options.threads)
        }
        let baseline = Footprint.read()
        let begun = nanoseconds()
        try attempt("the file cannot be loaded") { try engine.load() }
        let load = max(nanoseconds() - begun, 1)
        let loaded = Footprint.read()
        return try attempt("the model cannot be run") {
            try engine.prepare(inputs)
            let warmup = try time(engine, options.warmup)
            let samples = try time(engine, options.iterations)
            return Result(
                runner: runner,
                engine: engine.runtime,
                version: engine.version,
                threads: options.threads,
                load: load,
                warmup: warmup,
                samples: samples,
                baseline: baseline.now,
                loaded: loaded.now,
                // CoreML compiled the package in this process, and the system tells one peak of both.
                peak: engine.runtime == .coreml ? nil : Footprint.read().peak,
                outputs: try keep(engine.outputs(), in: folder)
            )
        }
    }

    /// Nanoseconds of each of a number of inferences.
    private static func time(_ engine: any Engine, _ count: Int) throws -> [Int] {
        var times = [Int](repeating: 0, count: count)
        for index in times.indices {
            let begun = nanoseconds()
            try engine.run()
            times[index] = max(nanoseconds() - begun, 1)
        }
        return times
    }

    private static func keep(_ outputs: [Tensor], in folder: URL?) throws -> [Kept] {
        try outputs.enumerated().map { index, output in
            let name = folder == nil ? nil : "\(index).bin"
            if let folder, let name {
                try write(output.data, to: folder.appendingPathComponent(name))
            }
            return Kept(file: name, type: output.type, shape: output.shape)
        }
    }

    private static func attempt<T>(_ failure: String, _ work: () throws -> T) throws -> T {
        do {
            return try work()
        } catch {
            throw RunnerError.from(failure, error)
        }
    }
}

/// Writes a file that is whole or absent.
func write(_ data: Data, to file: URL) throws {
    do {
        try data.write(to: file, options: .atomic)
    } catch {
        throw RunnerError.from("'\(file.lastPathComponent)' cannot be written", error)
    }
}
