import Foundation

/// One output of the last inference; `file` is nil where it was not kept.
public struct Kept: Encodable, Equatable {
    public let file: String?
    public let type: DType
    public let shape: [Int]

    private enum Key: String, CodingKey {
        case file, dtype, shape
    }

    public func encode(to encoder: any Encoder) throws {
        var fields = encoder.container(keyedBy: Key.self)
        try fields.encode(file, forKey: .file)
        try fields.encode(type, forKey: .dtype)
        try fields.encode(shape, forKey: .shape)
    }
}

/// The document that every runner of deploykit writes, schema 1. What could not be measured is null.
public struct Result: Encodable {
    public let runner: String
    public let engine: Runtime
    public let version: String
    public let threads: Int
    public let load: Int
    public let warmup: [Int]
    public let samples: [Int]
    public let baseline: Int?
    public let loaded: Int?
    public let peak: Int?
    public let outputs: [Kept]

    /// The first inference after loading.
    public var first: Int { warmup.first ?? samples[0] }

    private enum Key: String, CodingKey {
        case schema, runner, engine, runtime, abi, threads, affinity, load_ns, first_ns, warmup_ns, samples_ns, memory
        case clocks_mhz, outputs
    }

    private enum MemoryKey: String, CodingKey {
        case baseline_kb, loaded_kb, peak_kb
    }

    public func encode(to encoder: any Encoder) throws {
        var fields = encoder.container(keyedBy: Key.self)
        try fields.encode(1, forKey: .schema)
        try fields.encode(runner, forKey: .runner)
        try fields.encode(engine.rawValue, forKey: .engine)
        try fields.encode(version, forKey: .runtime)
        try fields.encode(abi, forKey: .abi)
        try fields.encode(threads, forKey: .threads)
        try fields.encodeNil(forKey: .affinity)  // Apple's systems have no such call
        try fields.encode(load, forKey: .load_ns)
        try fields.encode(first, forKey: .first_ns)
        try fields.encode(warmup, forKey: .warmup_ns)
        try fields.encode(samples, forKey: .samples_ns)
        var memory = fields.nestedContainer(keyedBy: MemoryKey.self, forKey: .memory)
        try memory.encode(baseline, forKey: .baseline_kb)
        try memory.encode(loaded, forKey: .loaded_kb)
        try memory.encode(peak, forKey: .peak_kb)
        try fields.encode([Int](), forKey: .clocks_mhz)  // nor do they tell clocks
        try fields.encode(outputs, forKey: .outputs)
    }

    private var abi: String {
        #if arch(arm64)
            return "aarch64"
        #else
            return "x86_64"
        #endif
    }

    /// The document as JSON.
    public func json() throws -> Data {
        try encoded(self)
    }
}

func encoded(_ value: some Encodable) throws -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return try encoder.encode(value)
}
