import Foundation

/// How the phone is: what may change from run to run. What it does not tell is nil.
public struct PhoneState: Encodable, Equatable {
    public var batteryPercent: Double?
    public var charging: Bool?
    /// `nominal`, `fair`, `serious` or `critical`, as `ProcessInfo.ThermalState` has it.
    public var thermal: String?
    public var lowPowerMode: Bool?
    public var screenOn: Bool?

    public init(
        batteryPercent: Double? = nil, charging: Bool? = nil, thermal: String? = nil, lowPowerMode: Bool? = nil,
        screenOn: Bool? = nil
    ) {
        self.batteryPercent = batteryPercent
        self.charging = charging
        self.thermal = thermal
        self.lowPowerMode = lowPowerMode
        self.screenOn = screenOn
    }

    private enum Key: String, CodingKey {
        case schema, battery_percent, charging, thermal, low_power_mode, screen_on
    }

    public func encode(to encoder: any Encoder) throws {
        var fields = encoder.container(keyedBy: Key.self)
        try fields.encode(1, forKey: .schema)
        try fields.encode(batteryPercent, forKey: .battery_percent)
        try fields.encode(charging, forKey: .charging)
        try fields.encode(thermal, forKey: .thermal)
        try fields.encode(lowPowerMode, forKey: .low_power_mode)
        try fields.encode(screenOn, forKey: .screen_on)
    }
}
