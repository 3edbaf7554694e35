//go:build !amd64 && !arm64 && !arm && !riscv64

package linux

// thisMachine says that filters do not know this processor.
func thisMachine() (machine, bool) { return machine{}, false }
