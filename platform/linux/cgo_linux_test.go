//go:build cgo

package linux

// cgo tells that the test is built with cgo, as the race detector asks for.
const cgo = true
