import Foundation

/// The names of a CoreML package's inputs and outputs in their own order, which CoreML itself keeps in dictionaries.
///
/// They are read from the specification in the package, a protocol buffer: `Model.description` is field 2,
/// `ModelDescription.input` and `.output` are 1 and 10, `FeatureDescription.name` is 1 (coremltools' `Model.proto`).
public struct PackageInterface: Equatable {
    public let inputs: [String]
    public let outputs: [String]

    public init(inputs: [String], outputs: [String]) {
        self.inputs = inputs
        self.outputs = outputs
    }

    /// Reads an `.mlpackage` folder.
    public static func read(package: URL) throws -> PackageInterface {
        let file = package.appendingPathComponent("Data/com.apple.CoreML/model.mlmodel")
        guard let data = try? Data(contentsOf: file) else {
            throw RunnerError("'\(package.lastPathComponent)' is no package with a model in it")
        }
        guard let description = fields(of: data[...])?[2]?.first, let parts = fields(of: description) else {
            throw RunnerError("the model in '\(package.lastPathComponent)' is damaged")
        }
        return PackageInterface(inputs: try names(parts[1]), outputs: try names(parts[10]))
    }

    private static func names(_ features: [Data]?) throws -> [String] {
        try (features ?? []).map { feature in
            guard let name = fields(of: feature)?[1]?.first, let text = String(data: name, encoding: .utf8) else {
                throw RunnerError("an input or output of the package has no name")
            }
            return text
        }
    }

    /// A message's fields that have a length, by number; nil where it is damaged.
    private static func fields(of message: Data) -> [Int: [Data]]? {
        var found: [Int: [Data]] = [:]
        var rest = message
        while !rest.isEmpty {
            guard let key = varint(&rest) else { return nil }
            switch key & 7 {
            case 0:
                guard varint(&rest) != nil else { return nil }
            case 1, 5:
                let size = key & 7 == 1 ? 8 : 4
                guard rest.count >= size else { return nil }
                rest = rest.dropFirst(size)
            case 2:
                guard let length = varint(&rest), length <= UInt64(rest.count) else { return nil }
                found[Int(truncatingIfNeeded: key >> 3), default: []].append(rest.prefix(Int(length)))
                rest = rest.dropFirst(Int(length))
            default:
                return nil
            }
        }
        return found
    }

    private static func varint(_ rest: inout Data) -> UInt64? {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), to: 64, by: 7) {
            guard let byte = rest.popFirst() else { return nil }
            value |= UInt64(byte & 0x7f) << shift
            if byte < 0x80 {
                return value
            }
        }
        return nil
    }
}
