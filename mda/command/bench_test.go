package command

import (
	"strings"
	"testing"

	"github.com/opensmtpd/opensmtpd/mda"
)

// BenchmarkDeliver measures a shell that takes 1 KiB and does nothing.
func BenchmarkDeliver(b *testing.B) {
	body := strings.Repeat("Subject: x\n", 93)
	b.ReportAllocs()
	for b.Loop() {
		d := &mda.Delivery{Home: "/", Body: strings.NewReader(body), Size: int64(len(body))}
		if r := (&Runner{}).Deliver(b.Context(), "exit 0", d); r.Outcome != mda.Delivered {
			b.Fatal(r)
		}
	}
}
