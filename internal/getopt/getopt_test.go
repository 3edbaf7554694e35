package getopt

import (
	"reflect"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		args     []string
		options  []Option
		operands []string
		err      string
	}{
		{"joined letters", []string{"-dv"}, []Option{{'d', ""}, {'v', ""}}, []string{}, ""},
		{"joined argument", []string{"-vffile", "x"}, []Option{{'v', ""}, {'f', "file"}}, []string{"x"}, ""},
		{"argument of its own", []string{"-f", "-d", "-d"}, []Option{{'f', "-d"}, {'d', ""}}, []string{}, ""},
		{"end of options", []string{"-d", "--", "-v"}, []Option{{'d', ""}}, []string{"-v"}, ""},
		{"first operand ends them", []string{"a", "-d"}, nil, []string{"a", "-d"}, ""},
		{"a lone dash is an operand", []string{"-", "-d"}, nil, []string{"-", "-d"}, ""},
		{"unknown letter", []string{"-x"}, nil, []string{}, "unknown option -- x"},
		{"a colon is no letter", []string{"-:"}, nil, []string{}, "unknown option -- :"},
		{"optional argument joined", []string{"-q15m", "x"}, []Option{{'q', "15m"}}, []string{"x"}, ""},
		{"optional argument absent", []string{"-vq", "x"}, []Option{{'v', ""}, {'q', ""}}, []string{"x"}, ""},
		{"argument missing", []string{"-f"}, nil, []string{}, "option requires an argument -- f"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			options, operands, err := Parse(tt.args, "df:q::v")
			got := ""
			if err != nil {
				got = err.Error()
			}
			if !reflect.DeepEqual(options, tt.options) || !reflect.DeepEqual(operands, tt.operands) || got != tt.err {
				t.Errorf("Parse(%q) = %v, %q, %q; want %v, %q, %q", tt.args, options, operands, got, tt.options, tt.operands, tt.err)
			}
		})
	}
}
