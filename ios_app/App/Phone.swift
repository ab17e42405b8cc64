import BenchmarkCore
import UIKit

/// What iOS tells an app of the phone.
@MainActor
enum Phone {
    /// How it is now; what iOS does not know yet is nil.
    static func state() -> PhoneState {
        let device = UIDevice.current
        device.isBatteryMonitoringEnabled = true
        return PhoneState(
            batteryPercent: device.batteryLevel < 0 ? nil : Double(device.batteryLevel) * 100,
            charging: charging(device.batteryState),
            thermal: thermal(ProcessInfo.processInfo.thermalState),
            lowPowerMode: ProcessInfo.processInfo.isLowPowerModeEnabled,
            screenOn: UIApplication.shared.applicationState == .active ? true : nil
        )
    }

    /// Whether it is on external power, also where its battery is full.
    private static func charging(_ state: UIDevice.BatteryState) -> Bool? {
        switch state {
        case .charging, .full: return true
        case .unplugged: return false
        default: return nil
        }
    }

    private static func thermal(_ state: ProcessInfo.ThermalState) -> String? {
        switch state {
        case .nominal: return "nominal"
        case .fair: return "fair"
        case .serious: return "serious"
        case .critical: return "critical"
        @unknown default: return nil
        }
    }
}
