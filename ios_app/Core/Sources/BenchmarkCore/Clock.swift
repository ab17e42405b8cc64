#if canImport(Darwin)
    import Darwin
#elseif canImport(Glibc)
    import Glibc
#endif

/// Nanoseconds of a clock that only goes forward; on Apple's systems it is that of `mach_absolute_time`.
@inline(__always)
public func nanoseconds() -> Int {
    #if canImport(Darwin)
        return Int(clock_gettime_nsec_np(CLOCK_UPTIME_RAW))
    #else
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return time.tv_sec * 1_000_000_000 + time.tv_nsec
    #endif
}
