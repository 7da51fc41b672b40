package health_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"hatchery/firstboot/health"
	"hatchery/internal/enrol"
)

// What the agent writes, the service reads.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), health.File)
	if _, _, err := health.Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	want := &enrol.Health{Kernel: "6.12", Memory: 5, Findings: []enrol.Finding{{Code: health.LowVoltage, Detail: "too low", Remedy: "another supply"}}}
	for range 2 {
		if err := health.Write(path, want); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := os.Chtimes(path, before, before); err != nil {
		t.Fatal(err)
	}
	got, looked, err := health.Read(path)
	if err != nil || !reflect.DeepEqual(got, want) || !looked.Equal(before) {
		t.Errorf("%+v of %s, %v", got, looked, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for _, bad := range []string{"", "{", "null", `{"kernel":"` + strings.Repeat("x", 70<<10) + `"}`} {
		if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if h, _, err := health.Read(path); err == nil || h != nil {
			t.Errorf("%.20q: %+v, %v", bad, h, err)
		}
	}
}
