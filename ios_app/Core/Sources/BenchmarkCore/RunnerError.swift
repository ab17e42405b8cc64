import Foundation

/// What the user must know, in one line.
public struct RunnerError: Error, CustomStringConvertible {
    public let message: String

    public init(_ message: String) {
        self.message = message
    }

    public var description: String { message }

    /// The first line of what an engine said.
    static func from(_ what: String, _ error: any Error) -> RunnerError {
        if let known = error as? RunnerError {
            return known
        }
        let said = (error as NSError).localizedDescription.trimmingCharacters(in: .whitespacesAndNewlines)
        let first = said.split(whereSeparator: \.isNewline).first.map(String.init)
        return RunnerError("\(what): \(first ?? String(describing: type(of: error)))")
    }
}
