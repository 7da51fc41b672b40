package clock_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hatchery/firstboot/clock"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
)

func TestTrusted(t *testing.T) {
	broken := errors.New("adjtimex: operation not permitted")
	for _, test := range []struct {
		summary string
		offline bool
		now     time.Time
		kernel  func() (bool, error)
		marker  bool
		want    string
		err     error
	}{
		{"nobody has set it", false, year(2030), unsynchronized, false, enrol.TimeUntrusted, nil},
		{"the kernel knows of time servers", false, year(2030), synchronized, false, enrol.TimeNTP, nil},
		{"timesyncd has been answered", false, year(2030), unsynchronized, true, enrol.TimeNTP, nil},
		{"the operator vouches for it", true, year(2030), unsynchronized, false, enrol.TimeOperator, nil},
		{"the operator vouches, and time servers too", true, year(2030), synchronized, false, enrol.TimeNTP, nil},
		{"before the build", false, year(2026), synchronized, true, enrol.TimeUntrusted, nil},
		{"before the build, whatever the operator says", true, year(1970), unsynchronized, false, enrol.TimeUntrusted, nil},
		{"a kernel that does not say", false, year(2030), func() (bool, error) { return false, broken }, false, enrol.TimeUntrusted, broken},
		{"a kernel that does not say, and timesyncd does", false, year(2030), func() (bool, error) { return false, broken }, true, enrol.TimeNTP, nil},
		{"a kernel that does not say, and an operator", true, year(2030), func() (bool, error) { return false, broken }, false, enrol.TimeOperator, nil},
	} {
		t.Run(test.summary, func(t *testing.T) {
			marker := filepath.Join(t.TempDir(), "synchronized")
			if test.marker {
				if err := os.WriteFile(marker, nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			trust := &clock.Trust{Floor: year(2028), Offline: test.offline, Synchronized: test.kernel, Marker: marker, Now: newWall(test.now).now}
			source, ok, err := trust.Trusted(t.Context())
			if source != test.want || ok != (test.want != enrol.TimeUntrusted) || !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("%s, %t, %v", source, ok, err)
			}
		})
	}
}

// TestTrustStays: time servers that fall silent do not take the trust away;
// a clock that goes below the floor does.
func TestTrustStays(t *testing.T) {
	w := newWall(year(2030))
	kernel := true
	trust := &clock.Trust{
		Floor: year(2028), Marker: filepath.Join(t.TempDir(), "synchronized"), Now: w.now,
		Synchronized: func() (bool, error) { return kernel, nil },
	}
	ask := func(want string) {
		t.Helper()
		if source, _, err := trust.Trusted(t.Context()); source != want || err != nil {
			t.Errorf("%s, %v; want %s", source, err, want)
		}
	}
	ask(enrol.TimeNTP)
	kernel = false
	ask(enrol.TimeNTP)
	w.setTime(year(1970))
	ask(enrol.TimeUntrusted)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if source, ok, err := trust.Trusted(ended); source != enrol.TimeUntrusted || ok || !errors.Is(err, context.Canceled) {
		t.Errorf("%s, %t, %v", source, ok, err)
	}
}

func TestNewTrust(t *testing.T) {
	for _, test := range []struct {
		node    nodefile.Node
		offline bool
	}{
		{nodefile.Node{Epoch: 1795000000}, false},
		{nodefile.Node{Epoch: 1795000000, Swarm: &nodefile.Swarm{}}, false},
		{nodefile.Node{Epoch: 1795000000, Swarm: &nodefile.Swarm{Offline: true}}, true},
	} {
		trust := clock.NewTrust(&test.node)
		if trust.Offline != test.offline || !trust.Floor.Equal(test.node.Floor()) {
			t.Errorf("offline %t, floor %s", trust.Offline, trust.Floor)
		}
	}
}
