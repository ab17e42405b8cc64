import BenchmarkCore
import SwiftUI

/// The screen for a person: choose a model of the app's folder, and measure it.
struct ContentView: View {
    @ObservedObject var session: Session
    @State private var model = ""
    @State private var inputs = "float32:1,3,224,224"
    @State private var units = ComputeUnits.all
    @State private var threads = 1
    @State private var warmup = 10
    @State private var iterations = 50

    var body: some View {
        NavigationStack {
            Form {
                Section("Model") {
                    if session.models.isEmpty {
                        Text("Copy an .mlpackage or a .pte into this app's folder, in Files or Finder.")
                    }
                    Picker("File", selection: $model) {
                        Text("None").tag("")
                        ForEach(session.models, id: \.self) { Text($0).tag($0) }
                    }
                    TextField("Inputs", text: $inputs)
                        .autocorrectionDisabled()
                        .textInputAutocapitalization(.never)
                }
                Section("Protocol") {
                    if runtime(of: model) == .coreml {
                        Picker("Compute units", selection: $units) {
                            ForEach(ComputeUnits.allCases, id: \.self) { Text($0.rawValue).tag($0) }
                        }
                    } else {
                        Stepper("Threads: \(threads)", value: $threads, in: 1...16)
                    }
                    Stepper("Warm-up: \(warmup)", value: $warmup, in: 0...1000, step: 10)
                    Stepper("Iterations: \(iterations)", value: $iterations, in: 10...1000, step: 10)
                    Button("Start", action: start)
                        .disabled(session.running || runtime(of: model) == nil)
                }
                Section("Result") {
                    Text(session.said)
                        .font(.body.monospacedDigit())
                        .textSelection(.enabled)
                    Button("Delete all runs", role: .destructive, action: session.removeRuns)
                        .disabled(session.running)
                }
            }
            .navigationTitle("deploykit")
        }
    }

    private func start() {
        guard let runtime = runtime(of: model) else {
            return
        }
        var words = ["--engine", runtime.rawValue, "--model", model]
        for input in inputs.split(separator: ";") {
            words += ["--input", input.trimmingCharacters(in: .whitespaces)]
        }
        words += ["--warmup", "\(warmup)", "--iterations", "\(iterations)"]
        words += runtime == .coreml ? ["--units", units.rawValue] : ["--threads", "\(threads)"]
        session.start(words)
    }
}
