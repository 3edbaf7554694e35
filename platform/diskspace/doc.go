// Package diskspace tells how much of a file system is free, on every system.
package diskspace

// fraction returns free of total, 1 when the file system does not count.
func fraction(free, total uint64) float64 {
	if total == 0 {
		return 1
	}
	return float64(free) / float64(total)
}
