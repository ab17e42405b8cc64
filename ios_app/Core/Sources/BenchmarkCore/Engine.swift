import Foundation

/// A runtime that loads a file and runs it.
///
/// The calls come in this order: `start`, `load`, `prepare`, then `run` again and again, `outputs`. Only `run` is timed
/// as an inference, and only `load` as loading.
public protocol Engine: AnyObject {
    /// The target whose artifacts it runs.
    var runtime: Runtime { get }

    /// The runtime and its version, and what was chosen of it.
    var version: String { get }

    /// Sets the number of threads, and does what is done once for a file and is not loading it, such as compiling it.
    func start(model: URL, threads: Int) throws

    /// Loads an artifact.
    func load() throws

    /// Makes the inputs of every inference.
    func prepare(_ inputs: [Tensor]) throws

    /// One inference.
    func run() throws

    /// The outputs of the inference before.
    func outputs() throws -> [Tensor]

    /// Removes what `start` made. It is called however the others end.
    func close()
}
