import BenchmarkCore
import ExecuTorch
import Foundation

/// ExecuTorch with the backends and kernels that the project links.
final class ExecuTorchEngine: Engine {
    let runtime = Runtime.executorch
    let version = "ExecuTorch 1.4.1"  // that of the package in the project file
    private var file: URL?
    private var module: Module?
    private var given: [Value] = []
    private var taken: [Value] = []

    func start(model: URL, threads: Int) throws {
        guard setExecuTorchThreads(UInt32(threads)) else {
            throw RunnerError("ExecuTorch has no pool of \(threads) threads")
        }
        file = model
    }

    func load() throws {
        guard let file else {
            throw RunnerError("ExecuTorch was not started with a file")
        }
        let module = Module(filePath: file.path, loadMode: .mmap)
        try module.load("forward")
        self.module = module
    }

    func prepare(_ inputs: [BenchmarkCore.Tensor]) throws {
        given = try inputs.map { input in
            guard let type = dataType(input.type) else {
                throw RunnerError("ExecuTorch takes no \(input.type.rawValue)")
            }
            return Value(AnyTensor(data: input.data, shape: input.shape, dataType: type))
        }
    }

    func run() throws {
        guard let module else {
            throw RunnerError("ExecuTorch has loaded no file")
        }
        try autoreleasepool {
            taken = try module.forward(given)
        }
    }

    func outputs() throws -> [BenchmarkCore.Tensor] {
        try taken.map { value in
            guard let tensor = value.anyTensor, let type = elementType(tensor.dataType) else {
                throw RunnerError("an output is no tensor of numbers")
            }
            var data = Data()
            tensor.bytes { pointer, count, _ in
                data = Data(bytes: pointer, count: count * type.size)
            }
            return try data.withUnsafeBytes {
                try BenchmarkCore.Tensor.gather(type: type, shape: tensor.shape, strides: tensor.strides, from: $0)
            }
        }
    }

    func close() {
        taken = []
        given = []
        module = nil
    }

    private func dataType(_ type: DType) -> DataType? {
        switch type {
        case .float32: return .float
        case .float16: return .half
        case .float64: return .double
        case .uint8: return .byte
        case .int8: return .char
        case .int32: return .int
        case .int64: return .long
        case .bool: return .bool
        }
    }

    private func elementType(_ type: DataType) -> DType? {
        DType.allCases.first { dataType($0) == type }
    }
}
