//go:build !cgo

package linux

// cgo tells that the test is built without cgo.
const cgo = false
