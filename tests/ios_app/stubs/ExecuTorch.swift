@_exported import Foundation

public func autoreleasepool<T>(invoking body: () throws -> T) rethrows -> T { try body() }

public enum DataType: Int8 { case byte, char, short, int, long, half, float, double, bool }
public enum ShapeDynamism: UInt8 { case `static`, dynamicBound, dynamicUnbound }
public enum ModuleLoadMode: Int { case file, mmap, mmapUseMlock, mmapUseMlockIgnoreErrors }
public struct Error: Swift.Error {}
public protocol Scalar {}

public class AnyTensor: ValueConvertible {
    public init(
        data: Data, shape: [Int], strides: [Int] = [], dimensionOrder: [Int] = [], dataType: DataType,
        shapeDynamism: ShapeDynamism = .dynamicBound
    ) {}
    public var dataType: DataType { .float }
    public var shape: [Int] { [] }
    public var strides: [Int] { [] }
    public func bytes(_ handler: (UnsafeRawPointer, Int, DataType) -> Void) {}
    public func asValue() -> Value { Value(self) }
}

public class Tensor<T: Scalar> {}

public class Value: ValueConvertible, ValueConstructible {
    public init(_ tensor: AnyTensor) {}
    public init(_ string: String) {}
    public var anyTensor: AnyTensor? { nil }
    public func asValue() -> Value { self }
}

public protocol ValueConvertible { func asValue() -> Value }
public protocol ValueConstructible {}
public protocol ValueSequenceConstructible {}
extension Array: ValueSequenceConstructible where Element: ValueConstructible {}

public class Module {
    public init(filePath: String, loadMode: ModuleLoadMode) {}
    public init(filePath: String) {}
    public func load(_ method: String) throws {}
    public func forward(_ inputs: [ValueConvertible]) throws -> [Value] { [] }
    public func forward(_ inputs: ValueConvertible...) throws -> [Value] { [] }
    public func forward<Output: ValueSequenceConstructible>(_ inputs: [ValueConvertible]) throws -> Output {
        fatalError()
    }
    public func forward<Output: ValueSequenceConstructible>(_ input: ValueConvertible) throws -> Output { fatalError() }
}
