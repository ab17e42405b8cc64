/// The element types that an input or output may have, by numpy's names.
public enum DType: String, CaseIterable, Encodable {
    case float32, float16, float64, uint8, int8, int32, int64, bool

    /// Bytes of an element.
    public var size: Int {
        switch self {
        case .float64, .int64: return 8
        case .float32, .int32: return 4
        case .float16: return 2
        case .uint8, .int8, .bool: return 1
        }
    }

    /// The type of that name.
    public static func of(_ name: String) throws -> DType {
        guard let type = DType(rawValue: name) else {
            throw RunnerError("there is no element type called '\(name)'")
        }
        return type
    }
}
