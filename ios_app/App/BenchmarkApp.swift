import SwiftUI

@main
struct BenchmarkApp: App {
    @StateObject private var session = Session()
    @Environment(\.scenePhase) private var phase

    var body: some Scene {
        WindowGroup {
            ContentView(session: session)
        }
        .onChange(of: phase) { _, now in
            if now == .active {
                session.becameActive()
            } else {
                session.resignedActive()
            }
        }
    }
}
