package osrelease_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/osrelease"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		summary, text string
		want          map[string]string
	}{
		{"plain", "ID=raspbian\nVERSION_ID=12\n", map[string]string{"ID": "raspbian", "VERSION_ID": "12"}},
		{"quoted", `PRETTY_NAME="Raspbian GNU/Linux 12 (bookworm)"` + "\nNAME='one $two \\three'\n",
			map[string]string{"PRETTY_NAME": "Raspbian GNU/Linux 12 (bookworm)", "NAME": `one $two \three`}},
		{"escapes", `A="one \"two\" \$3"` + "\nB=a\\ b\n", map[string]string{"A": `one "two" $3`, "B": "a b"}},
		{"comments, blanks and nonsense", "# ID=x\n\n  ID=debian  \nno assignment\n=nothing\n", map[string]string{"ID": "debian"}},
		{"the last counts, without a newline", "ID=a\nID=b", map[string]string{"ID": "b"}},
		{"odd quotes stay", "A=\"one\nB='\nC=\\", map[string]string{"A": `"one`, "B": "'", "C": `\`}},
		{"nothing", "", map[string]string{}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if diff := cmp.Diff(test.want, osrelease.Parse([]byte(test.text))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("ID=raspbian\nNAME=\"a\\\"b\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for key := range osrelease.Parse(data) {
			if key == "" {
				t.Error("an assignment to nothing")
			}
		}
	})
}
