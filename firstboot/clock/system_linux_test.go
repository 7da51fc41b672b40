package clock_test

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/firstboot/clock"
	"hatchery/internal/testtool"
)

// asNobody is set in the environment of the process that [TestSetTime] starts.
const asNobody = "HATCHERY_TEST_SET_TIME"

func TestMain(m *testing.M) {
	if seconds := os.Getenv(asNobody); seconds != "" {
		n, err := strconv.ParseInt(seconds, 10, 64)
		if err == nil {
			err = clock.SetTime(time.Unix(n, 0))
		}
		switch {
		case errors.Is(err, unix.EPERM):
			os.Stdout.WriteString("not permitted")
		case errors.Is(err, unix.EINVAL):
			os.Stdout.WriteString("invalid")
		default:
			os.Stdout.WriteString("something else: " + errorText(err))
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func errorText(err error) string {
	if err == nil {
		return "the clock was set"
	}
	return err.Error()
}

// TestSetTime asks the kernel from a process that may not set the clock. The
// kernel looks at the time first (do_sys_settimeofday64 in
// kernel/time/time.c), so its two refusals say that it got what it was given.
func TestSetTime(t *testing.T) {
	testtool.NeedRoot(t)
	for _, test := range []struct {
		summary string
		seconds int64
		want    string
	}{
		{"a time that could be set", time.Now().Unix(), "not permitted"},
		{"a time that cannot be", -1, "invalid"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			// A folder that nobody may look into holds the test's program.
			program, err := os.Open("/proc/self/exe")
			if err != nil {
				t.Fatal(err)
			}
			defer program.Close()
			cmd := exec.Command("/proc/self/fd/3")
			cmd.ExtraFiles = []*os.File{program}
			cmd.Dir = "/"
			cmd.Env = []string{asNobody + "=" + strconv.FormatInt(test.seconds, 10)}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			out, err := cmd.Output()
			if err != nil || string(out) != test.want {
				t.Errorf("%q, %v; want %q", out, err, test.want)
			}
		})
	}
}

// TestSetTimeOutOfReach asks for times that a kernel's number does not hold.
func TestSetTimeOutOfReach(t *testing.T) {
	if strconv.IntSize > 32 {
		t.Skip("a 64-bit system's clock reaches any time")
	}
	if err := clock.SetTime(time.Unix(math.MaxInt32+1, 0)); err == nil || !strings.Contains(err.Error(), "does not reach 2038") {
		t.Errorf("%v", err)
	}
}

// TestSynchronized compares with what the kernel says to others.
func TestSynchronized(t *testing.T) {
	ok, err := clock.Synchronized()
	if err != nil {
		t.Fatal(err)
	}
	var state unix.Timex
	n, err := unix.Adjtimex(&state)
	if err != nil {
		t.Fatal(err)
	}
	if ok != (n != unix.TIME_ERROR) {
		t.Errorf("synchronized %t, adjtimex's state %d", ok, n)
	}
}
