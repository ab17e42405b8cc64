import Foundation

/// An input or output: its element type, its shape, and its bytes in C order.
public struct Tensor: Equatable {
    public let type: DType
    public let shape: [Int]
    public let data: Data

    public init(type: DType, shape: [Int], data: Data) {
        self.type = type
        self.shape = shape
        self.data = data
    }

    private static let largest = 1 << 30

    /// Reads an input.
    ///
    /// - Parameters:
    ///   - text: `FILE:DTYPE:SIZES`, such as `x.bin:float32:1,3,224,224`; or `DTYPE:SIZES` without a file, which makes
    ///     numbers: from -1 to 1, bytes, or zeros for other types, the same in every run.
    ///   - folder: what a file's name is relative to.
    public static func read(_ text: String, in folder: URL) throws -> Tensor {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        guard parts.count >= 2 else {
            throw RunnerError("an input is FILE:DTYPE:SIZES, not '\(text)'")
        }
        let type = try DType.of(parts[parts.count - 2])
        let shape = try sizes(parts[parts.count - 1])
        var bytes = type.size
        for size in shape {
            let (product, overflow) = bytes.multipliedReportingOverflow(by: size)
            guard !overflow, product <= largest else {
                throw RunnerError("the input '\(text)' is larger than \(largest) bytes")
            }
            bytes = product
        }
        if parts.count == 2 {
            return Tensor(type: type, shape: shape, data: made(type, bytes: bytes))
        }
        let name = parts.dropLast(2).joined(separator: ":")
        guard let data = try? Data(contentsOf: place(name, in: folder)) else {
            throw RunnerError("there is no file '\(name)' that can be read")
        }
        guard data.count == bytes else {
            let wanted = "\(type.rawValue) of \(parts[parts.count - 1])"
            throw RunnerError("'\(name)' has \(data.count) bytes; \(wanted) has \(bytes)")
        }
        return Tensor(type: type, shape: shape, data: data)
    }

    /// Copies elements that lie with gaps or in another order, as a runtime may keep them, into C order.
    ///
    /// - Parameters:
    ///   - strides: elements from one index of a dimension to the next.
    ///   - bytes: the first element; every element that shape and strides reach is in it.
    public static func gather(
        type: DType, shape: [Int], strides: [Int], from bytes: UnsafeRawBufferPointer
    ) throws -> Tensor {
        guard shape.count == strides.count, strides.allSatisfy({ $0 >= 0 }) else {
            throw RunnerError("an output has the shape \(shape) and the strides \(strides)")
        }
        let count = shape.reduce(1, *)
        let last = zip(shape, strides).reduce(0) { $0 + max($1.0 - 1, 0) * $1.1 }
        guard count == 0 || (last + 1) * type.size <= bytes.count else {
            throw RunnerError("an output of the shape \(shape) has only \(bytes.count) bytes")
        }
        var data = Data(capacity: count * type.size)
        var index = [Int](repeating: 0, count: shape.count)
        for _ in 0..<count {
            let start = zip(index, strides).reduce(0) { $0 + $1.0 * $1.1 } * type.size
            data.append(contentsOf: bytes[start..<start + type.size])
            for axis in shape.indices.reversed() {
                index[axis] += 1
                if index[axis] < shape[axis] {
                    break
                }
                index[axis] = 0
            }
        }
        return Tensor(type: type, shape: shape, data: data)
    }

    private static func sizes(_ text: String) throws -> [Int] {
        if text.isEmpty {
            return []
        }
        return try text.split(separator: ",", omittingEmptySubsequences: false).map { each in
            guard (1...9).contains(each.count), each.allSatisfy({ ("0"..."9").contains($0) }), let size = Int(each)
            else {
                throw RunnerError("'\(text)' is no shape, such as 1,3,224,224")
            }
            return size
        }
    }

    private static func made(_ type: DType, bytes: Int) -> Data {
        var state: UInt64 = 0
        func next() -> UInt32 {  // Knuth's linear congruential generator
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return UInt32(truncatingIfNeeded: state >> 32)
        }
        switch type {
        case .float32:
            let values = (0..<bytes / 4).map { _ in Float(next()) / Float(UInt32.max) * 2 - 1 }
            return values.withUnsafeBytes { Data($0) }
        case .uint8:
            return Data((0..<bytes).map { _ in UInt8(truncatingIfNeeded: next() >> 24) })
        default:
            return Data(count: bytes)
        }
    }
}

/// Where a name leads: itself where it begins with a slash, else in a folder.
func place(_ name: String, in folder: URL) -> URL {
    name.hasPrefix("/") ? URL(fileURLWithPath: name) : folder.appendingPathComponent(name)
}
