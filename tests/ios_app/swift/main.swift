import Foundation

// The app without a screen: its arguments, with an engine that sleeps. DOCUMENTS is its folder, KIND the step that
// fails. Without a job, the names of the package that is the first argument.
let environment = ProcessInfo.processInfo.environment
let documents = URL(fileURLWithPath: environment["DOCUMENTS"] ?? "/")
let arguments = Array(CommandLine.arguments.dropFirst())
switch try Job.parse(arguments) {
case .run(let name, let words):
    let engine = FakeEngine(sleep: 0.003, failing: environment["KIND"])
    _ = try? Job.carryOut(
        name, words, documents: documents, runner: "deploykit-ios 1", engine: { _ in engine }, disturbed: { nil })
    Thread.sleep(forTimeInterval: 60)
case .state(let name):
    let state = PhoneState(batteryPercent: 50, charging: false, thermal: "nominal", lowPowerMode: false)
    try Job.tell(state, name, documents: documents)
case .remove(let names):
    try Job.remove(names, documents: documents)
case nil:
    let found = try PackageInterface.read(package: URL(fileURLWithPath: arguments[0]))
    print(found.inputs.joined(separator: ","), found.outputs.joined(separator: ","))
}
