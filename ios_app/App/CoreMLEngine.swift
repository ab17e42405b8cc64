import BenchmarkCore
import CoreML
import Foundation

/// CoreML, which runs a package on the processors that it may use and finds best.
final class CoreMLEngine: Engine {
    let runtime = Runtime.coreml
    private let units: ComputeUnits
    private var interface = PackageInterface(inputs: [], outputs: [])
    private var compiled: URL?
    private var model: MLModel?
    private var given: (any MLFeatureProvider)?
    private var taken: (any MLFeatureProvider)?

    init(units: ComputeUnits) {
        self.units = units
    }

    var version: String {
        "CoreML of iOS \(ProcessInfo.processInfo.operatingSystemVersionString), compute units \(units.rawValue)"
    }

    /// Compiles the package, as Xcode does it for the models of an app.
    func start(model package: URL, threads: Int) throws {
        guard threads == 1 else {
            throw RunnerError("CoreML chooses its threads itself: ask for 1")
        }
        interface = try PackageInterface.read(package: package)
        compiled = try MLModel.compileModel(at: package)
    }

    func load() throws {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = computeUnits
        model = try MLModel(contentsOf: try known(compiled), configuration: configuration)
    }

    func prepare(_ inputs: [Tensor]) throws {
        guard inputs.count == interface.inputs.count else {
            throw RunnerError("the package has \(interface.inputs.count) inputs, not \(inputs.count)")
        }
        let descriptions = try known(model).modelDescription.inputDescriptionsByName
        var features: [String: MLFeatureValue] = [:]
        for (name, input) in zip(interface.inputs, inputs) {
            guard let wanted = descriptions[name]?.multiArrayConstraint else {
                throw RunnerError("the input \(name) is no array; an image is not made here")
            }
            guard let type = arrayType(input.type), type == wanted.dataType else {
                throw RunnerError("the input \(name) has other elements than \(input.type.rawValue)")
            }
            features[name] = MLFeatureValue(multiArray: try array(input, type))
        }
        given = try MLDictionaryFeatureProvider(dictionary: features)
    }

    func run() throws {
        try autoreleasepool {
            taken = try known(model).prediction(from: try known(given))
        }
    }

    func outputs() throws -> [Tensor] {
        let features = try known(taken)
        return try interface.outputs.map { name in
            guard let array = features.featureValue(for: name)?.multiArrayValue, let type = elementType(array.dataType)
            else {
                throw RunnerError("the output \(name) is no array of numbers")
            }
            let shape = array.shape.map(\.intValue)
            let strides = array.strides.map(\.intValue)
            return try array.withUnsafeBytes {
                try Tensor.gather(type: type, shape: shape, strides: strides, from: $0)
            }
        }
    }

    func close() {
        taken = nil
        given = nil
        model = nil
        if let compiled {
            try? FileManager.default.removeItem(at: compiled)
        }
    }

    private var computeUnits: MLComputeUnits {
        switch units {
        case .all: return .all
        case .cpuOnly: return .cpuOnly
        case .cpuAndGPU: return .cpuAndGPU
        case .cpuAndNeuralEngine: return .cpuAndNeuralEngine
        }
    }

    /// An array with its own copy of an input's bytes.
    private func array(_ input: Tensor, _ type: MLMultiArrayDataType) throws -> MLMultiArray {
        var strides = [Int](repeating: 1, count: input.shape.count)
        for axis in strides.indices.dropLast().reversed() {
            strides[axis] = strides[axis + 1] * input.shape[axis + 1]
        }
        let memory = UnsafeMutableRawPointer.allocate(byteCount: max(input.data.count, 1), alignment: 64)
        input.data.copyBytes(to: UnsafeMutableRawBufferPointer(start: memory, count: input.data.count))
        return try MLMultiArray(
            dataPointer: memory,
            shape: input.shape.map { NSNumber(value: $0) },
            dataType: type,
            strides: strides.map { NSNumber(value: $0) },
            deallocator: { $0.deallocate() }
        )
    }

    private func arrayType(_ type: DType) -> MLMultiArrayDataType? {
        switch type {
        case .float32: return .float32
        case .float16: return .float16
        case .float64: return .double
        case .int32: return .int32
        default: return nil
        }
    }

    private func elementType(_ type: MLMultiArrayDataType) -> DType? {
        switch type {
        case .float32: return .float32
        case .float16: return .float16
        case .double: return .float64
        case .int32: return .int32
        default: return nil
        }
    }

    private func known<T>(_ value: T?) throws -> T {
        guard let value else {
            throw RunnerError("CoreML was not started with a file")
        }
        return value
    }
}
