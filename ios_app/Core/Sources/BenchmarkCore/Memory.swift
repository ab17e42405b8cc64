#if canImport(Darwin)
    import Darwin
#endif

/// The memory of this process in kB, as the system's own limit counts it (`phys_footprint`), and its highest so far;
/// nil where the system does not tell.
public struct Footprint: Equatable {
    public let now: Int?
    public let peak: Int?

    public static func read() -> Footprint {
        #if canImport(Darwin)
            var info = task_vm_info_data_t()
            let words = MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<integer_t>.size
            var count = mach_msg_type_number_t(words)
            let status = withUnsafeMutablePointer(to: &info) {
                $0.withMemoryRebound(to: integer_t.self, capacity: words) {
                    task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
                }
            }
            guard status == KERN_SUCCESS else {
                return Footprint(now: nil, peak: nil)
            }
            let peak = info.ledger_phys_footprint_peak
            return Footprint(now: Int(info.phys_footprint / 1024), peak: peak > 0 ? Int(peak / 1024) : nil)
        #else
            return Footprint(now: nil, peak: nil)
        #endif
    }
}
