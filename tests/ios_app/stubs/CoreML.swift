@_exported import Foundation

public func autoreleasepool<T>(invoking body: () throws -> T) rethrows -> T { try body() }

public enum MLComputeUnits: Int { case cpuOnly, cpuAndGPU, all, cpuAndNeuralEngine }

public enum MLMultiArrayDataType: Int {
    case float16, float32, double, int32
    public static var float64: MLMultiArrayDataType { .double }
    public static var float: MLMultiArrayDataType { .float32 }
}

public class MLModelConfiguration {
    public init() {}
    public var computeUnits = MLComputeUnits.all
}

public class MLMultiArrayConstraint { public var dataType: MLMultiArrayDataType { fatalError() } }
public class MLFeatureDescription { public var multiArrayConstraint: MLMultiArrayConstraint? { nil } }
public class MLModelDescription { public var inputDescriptionsByName: [String: MLFeatureDescription] { [:] } }

public class MLMultiArray {
    public init(
        dataPointer: UnsafeMutableRawPointer, shape: [NSNumber], dataType: MLMultiArrayDataType, strides: [NSNumber],
        deallocator: ((UnsafeMutableRawPointer) -> Void)?
    ) throws { fatalError() }
    public var dataType: MLMultiArrayDataType { fatalError() }
    public var shape: [NSNumber] { [] }
    public var strides: [NSNumber] { [] }
    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R { fatalError() }
}

public class MLFeatureValue {
    public init(multiArray: MLMultiArray) {}
    public var multiArrayValue: MLMultiArray? { nil }
}

public protocol MLFeatureProvider { func featureValue(for name: String) -> MLFeatureValue? }

public class MLDictionaryFeatureProvider: MLFeatureProvider {
    public init(dictionary: [String: Any]) throws {}
    public func featureValue(for name: String) -> MLFeatureValue? { nil }
}

public class MLModel {
    public static func compileModel(at url: URL) throws -> URL { url }
    public init(contentsOf url: URL, configuration: MLModelConfiguration) throws {}
    public var modelDescription: MLModelDescription { fatalError() }
    public func prediction(from input: any MLFeatureProvider) throws -> any MLFeatureProvider { input }
}
