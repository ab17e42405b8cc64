// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "BenchmarkCore",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [.library(name: "BenchmarkCore", targets: ["BenchmarkCore"])],
    targets: [
        .target(name: "BenchmarkCore"),
        .testTarget(name: "BenchmarkCoreTests", dependencies: ["BenchmarkCore"]),
    ]
)
