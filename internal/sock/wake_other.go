//go:build !(darwin || dragonfly || freebsd || linux || netbsd)

package sock

// wakeBlocked is known elsewhere only.
func wakeBlocked(uintptr, bool) error { return nil }
