@_exported import Foundation

@MainActor
public class UIDevice {
    public enum BatteryState: Int { case unknown, unplugged, charging, full }
    public static var current: UIDevice { fatalError() }
    public var isBatteryMonitoringEnabled = false
    public var batteryLevel: Float { 0 }
    public var batteryState: BatteryState { .unknown }
}

@MainActor
public class UIApplication {
    public enum State: Int { case active, inactive, background }
    public static var shared: UIApplication { fatalError() }
    public var applicationState: State { .active }
    public var isIdleTimerDisabled = false
}

extension ProcessInfo {
    public enum ThermalState: Int { case nominal, fair, serious, critical }
    public var thermalState: ThermalState { .nominal }
    public var isLowPowerModeEnabled: Bool { false }
}
