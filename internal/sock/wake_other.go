//go:build !(darwin || dragonfly || freebsd || linux || netbsd)

package sock

// wakeBlocked does nothing on this system.
func wakeBlocked(uintptr, bool) error { return nil }
