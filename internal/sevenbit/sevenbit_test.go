package sevenbit

import (
	"bytes"
	"io"
	"mime/quotedprintable"
	"strings"
	"testing"
	"testing/iotest"
)

// convert passes a message through both passes.
func convert(t *testing.T, text string) (Facts, string) {
	t.Helper()
	f, err := Scan(iotest.OneByteReader(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(iotest.OneByteReader(NewReader(strings.NewReader(text), f)))
	if err != nil {
		t.Fatal(err)
	}
	return f, string(out)
}

const mime10 = "MIME-Version: 1.0\n"

func TestConversion(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{
		{"text", mime10 + "Content-Type: text/plain; charset=utf-8\ncontent-transfer-encoding : 8bit\nTo: x\n\né = \n",
			mime10 + "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\nTo: x\n\n=C3=A9 =3D=20\n"},
		{"text without a declared encoding", mime10 + "Content-Type: text/plain\n\né",
			mime10 + "Content-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A9"},
		{"text that says it is 7bit", mime10 + "Content-Transfer-Encoding: 7bit\n\né\n",
			mime10 + "Content-Transfer-Encoding: quoted-printable\n\n=C3=A9\n"},
		{"no MIME", "Subject: x\n\né\n",
			"Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A9\n"},
		{"7-bit text stays", mime10 + "Content-Transfer-Encoding: 8bit\n\ne = \n", mime10 + "Content-Transfer-Encoding: 8bit\n\ne = \n"},
		{"the encoding is declared twice", mime10 + "Content-Transfer-Encoding: 8bit\nX: y\nContent-Transfer-Encoding:\n base64\n\né\n",
			mime10 + "Content-Transfer-Encoding: quoted-printable\nX: y\n\n=C3=A9\n"},
		{"only the part that needs it",
			mime10 + "Content-Type: multipart/mixed;\n boundary=\"b c\"\nContent-Transfer-Encoding: 8bit\n\nprologué\n--b c\n\none\n" +
				"--b c  \nContent-Type: text/html\n\n--é\n--b cd\n--b c\nContent-Transfer-Encoding: base64\n\nw6k=\n--b c--\nend =\n",
			mime10 + "Content-Type: multipart/mixed;\n boundary=\"b c\"\nContent-Transfer-Encoding: 7bit\n\nprologu??\n--b c\n\none\n" +
				"--b c  \nContent-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n--=C3=A9\n--b cd\n--b c\nContent-Transfer-Encoding: base64\n\nw6k=\n--b c--\nend =\n"},
		{"parts in parts, the outer boundary ends both",
			mime10 + "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/alternative; boundary=b\n\n--b\n\né\n--a\n\nü\n--b\n--a--\n",
			mime10 + "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/alternative; boundary=b\n\n--b\n" +
				"Content-Transfer-Encoding: quoted-printable\n\n=C3=A9\n--a\nContent-Transfer-Encoding: quoted-printable\n\n=C3=BC\n--b\n--a--\n"},
		{"a forwarded message", mime10 + "Content-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nSubject: y\nDKIM-Signature: x\n\né\n",
			mime10 + "Content-Type: message/rfc822\nContent-Transfer-Encoding: 7bit\n\nSubject: y\nDKIM-Signature: x\n" +
				"MIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A9\n"},
		{"a digest holds messages", mime10 + "Content-Type: multipart/digest; boundary=a\n\n--a\n\nSubject: y\nMIME-Version: 1.0\n\né\n--a--\n",
			mime10 + "Content-Type: multipart/digest; boundary=a\n\n--a\n\nSubject: y\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A9\n--a--\n"},
		{"a signed part without 8-bit text stays", mime10 + "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/signed; boundary=s\n\n" +
			"--s\n\nok \n--s--\n--a\n\né\n--a--\n",
			mime10 + "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/signed; boundary=s\n\n--s\n\nok \n--s--\n" +
				"--a\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A9\n--a--\n"},
		{"a part without body", mime10 + "Content-Type: multipart/mixed; boundary=a\n\n--a\nX: y\n--a--\n",
			mime10 + "Content-Type: multipart/mixed; boundary=a\n\n--a\nX: y\n--a--\n"},
		{"nothing but a header", "Subject: x", "Subject: x"},
		{"nothing", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, got := convert(t, tt.in)
			if got != tt.want || !f.Convertible || f.EightBitBody != (tt.in != tt.want) {
				t.Errorf("%+v\n%s\nwant\n%s", f, got, tt.want)
			}
		})
	}
}

func TestWhatMustNotBeConverted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in    string
		convertible bool
	}{
		{"DKIM", "dkim-signature: v=1\n\né\n", false},
		{"multipart/signed", mime10 + "Content-Type: multipart/signed; boundary=a\n\n--a\n\né\n--a--\n", false},
		{"within multipart/signed", mime10 + "Content-Type: multipart/signed; boundary=a\n\n--a\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\né\n--b--\n--a--\n", false},
		{"base64 with 8-bit bytes", mime10 + "Content-Transfer-Encoding: base64\n\né\n", false},
		{"a multipart without boundary", mime10 + "Content-Type: multipart/mixed\n\né\n", false},
		{"a header without end", strings.Repeat("X: "+strings.Repeat("y", 90)+"\n", maxHeader/90) + "\né\n", false},
		{"multiparts without end", nested(maxDepth+1) + "\né\n", false},
		{"multiparts as deep as allowed", nested(maxDepth) + "\né\n", true},
		{"more parts than allowed", mime10 + "Content-Type: multipart/mixed; boundary=a\n\n" + strings.Repeat("--a\n\nx\n", maxParts) + "--a\n\né\n", false},
		{"as many parts as allowed", mime10 + "Content-Type: multipart/mixed; boundary=a\n\n" + strings.Repeat("--a\n\nx\n", maxParts-1) + "--a\n\né\n", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, err := Scan(strings.NewReader(tt.in))
			if err != nil || f.Convertible != tt.convertible || !f.EightBitBody {
				t.Errorf("%v, %v, %v; want convertible %v", f.Convertible, f.EightBitBody, err, tt.convertible)
			}
		})
	}
}

// nested returns the headers of n multiparts, each in the one before.
func nested(n int) string {
	var b strings.Builder
	b.WriteString(mime10)
	for i := range n {
		name := strings.Repeat("x", i+1)
		b.WriteString("Content-Type: multipart/mixed; boundary=" + name + "\n\n--" + name + "\n")
	}
	return b.String()
}

func TestEightBitHeader(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{"Subject: é\n\nx\n": true, "Subject: e\n\né\n": false, "Subject: é": true} {
		if f, err := Scan(strings.NewReader(in)); f.EightBitHeader != want || err != nil {
			t.Errorf("%q: %v, %v", in, f.EightBitHeader, err)
		}
	}
}

func TestErrorsOfReadingArePassedOn(t *testing.T) {
	t.Parallel()
	if _, err := Scan(iotest.ErrReader(io.ErrNoProgress)); err != io.ErrNoProgress {
		t.Error(err)
	}
	if _, err := NewReader(iotest.ErrReader(io.ErrNoProgress), Facts{}).Read(make([]byte, 1)); err != io.ErrNoProgress {
		t.Error(err)
	}
}

func TestQuotedPrintableReadsBack(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"a=b\n", " \n\t\n", strings.Repeat("é", 1000), strings.Repeat("x", 75) + "\n", strings.Repeat("x", 76) + " \n", "a\rb\x00"} {
		var q quoter
		out := string(q.end(q.add(nil, []byte(in))))
		back, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(out)))
		if err != nil || string(back) != in {
			t.Errorf("%q becomes %q, reads back as %q (%v)", in, out, back, err)
		}
	}
}

// FuzzConvert: a body that may be converted has no 8-bit byte afterwards but in
// headers of parts, and no more of them than before; converting again changes
// nothing; how the message arrives does not matter; what has no 8-bit byte stays as
// it is, but for the labels of multiparts.
func FuzzConvert(f *testing.F) {
	f.Add([]byte(mime10 + "Content-Type: multipart/mixed; boundary=a\n\nx\n--a\nContent-Transfer-Encoding: 8bit\n\n\xc3\xa9 \n--a--\n"))
	f.Add([]byte("\n\xff"))
	f.Add([]byte(mime10 + "Content-Type: message/rfc822\n\n\nx\xff=\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		facts, err := Scan(bytes.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		again, err := Scan(iotest.HalfReader(bytes.NewReader(in)))
		if err != nil || again.Convertible != facts.Convertible || again.EightBitBody != facts.EightBitBody || len(again.convert) != len(facts.convert) {
			t.Fatalf("%+v, in pieces %+v", facts, again)
		}
		if !facts.Convertible {
			return
		}
		out, err := io.ReadAll(NewReader(bytes.NewReader(in), facts))
		if err != nil {
			t.Fatal(err)
		}
		after, err := Scan(bytes.NewReader(out))
		if err != nil || after.EightBitBody {
			t.Fatalf("%q becomes %q, which has an 8-bit body", in, out)
		}
		twice, err := io.ReadAll(NewReader(bytes.NewReader(out), after))
		if err != nil || !bytes.Equal(twice, out) {
			t.Fatalf("%q becomes %q, then %q", in, out, twice)
		}
		if !eightBit(in) && !bytes.Contains(bytes.ToLower(in), []byte("content-transfer-encoding")) && !bytes.Equal(in, out) {
			t.Fatalf("%q becomes %q", in, out)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	text := mime10 + "\n" + strings.Repeat(strings.Repeat("x", 76)+"\n", 1000)
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if f, err := Scan(strings.NewReader(text)); err != nil || f.EightBitBody {
			b.Fatal(err)
		}
	}
}
