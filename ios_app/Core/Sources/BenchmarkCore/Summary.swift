import Foundation

/// The statistics of a run that a person reads on the screen, in milliseconds; those of a report are made from the raw
/// samples elsewhere, in the same way.
public struct Summary: Equatable {
    public let mean: Double
    /// With n - 1 in the divisor; nil of a single sample.
    public let std: Double?
    public let min: Double
    public let p50: Double
    public let p90: Double
    public let max: Double

    /// The statistics of samples in nanoseconds, of which there is at least one.
    public init(_ samples: [Int]) {
        let ordered = samples.map { Double($0) / 1e6 }.sorted()
        let count = Double(ordered.count)
        let mean = ordered.reduce(0, +) / count
        let squares = ordered.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
        self.mean = mean
        std = ordered.count > 1 ? (squares / (count - 1)).squareRoot() : nil
        min = ordered[0]
        p50 = Summary.percentile(ordered, 50)
        p90 = Summary.percentile(ordered, 90)
        max = ordered[ordered.count - 1]
    }

    /// Linear between neighbours: Hyndman and Fan's type 7, as numpy's.
    private static func percentile(_ ordered: [Double], _ percent: Double) -> Double {
        let position = Double(ordered.count - 1) * percent / 100
        let below = Int(position.rounded(.down))
        let above = Swift.min(below + 1, ordered.count - 1)
        return ordered[below] + (ordered[above] - ordered[below]) * (position - Double(below))
    }
}
