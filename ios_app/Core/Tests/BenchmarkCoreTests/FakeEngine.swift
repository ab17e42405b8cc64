import Foundation

@testable import BenchmarkCore

/// An engine that sleeps, doubles its first input, and fails where it is told to.
final class FakeEngine: Engine {
    let runtime = Runtime.executorch
    let version = "fake 1"
    private let sleep: TimeInterval
    private let failing: String?
    private var given: [Tensor] = []
    private(set) var calls: [String] = []

    init(sleep: TimeInterval = 0, failing: String? = nil) {
        self.sleep = sleep
        self.failing = failing
    }

    private func take(_ step: String) throws {
        calls.append(step)
        if step == failing {
            throw RunnerError("\(step) is broken")
        }
    }

    func start(model: URL, threads: Int) throws {
        try take("start")
    }

    func load() throws {
        try take("load")
        Thread.sleep(forTimeInterval: 2 * sleep)
    }

    func prepare(_ inputs: [Tensor]) throws {
        given = inputs
        try take("prepare")
    }

    func run() throws {
        try take("run")
        Thread.sleep(forTimeInterval: sleep)
    }

    func outputs() throws -> [Tensor] {
        try take("outputs")
        return given.map { input in
            let values = input.data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
            return Tensor(
                type: input.type, shape: input.shape, data: values.map { 2 * $0 }.withUnsafeBytes { Data($0) })
        }
    }

    func close() {
        calls.append("close")
    }
}
