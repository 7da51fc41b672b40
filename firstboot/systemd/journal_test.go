package systemd_test

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"

	"hatchery/firstboot/systemd"
)

func TestJournal(t *testing.T) {
	event := slog.GroupValue(slog.String("name", "done"), slog.String("message_id", "6f8f9d0dc0b54d3bb4a0e7a3c0f1f002"))
	for _, test := range []struct {
		summary string
		log     func(*slog.Logger)
		want    string
	}{
		{
			summary: "an event", log: func(l *slog.Logger) { l.Info("link done: usb0", "event", event, "step", "link", "tries", 3) },
			want: "6 link done: usb0 step=link tries=3 | HATCHERY_EVENT_NAME=done HATCHERY_STEP=link HATCHERY_TRIES=3 MESSAGE_ID=6f8f9d0dc0b54d3bb4a0e7a3c0f1f002",
		},
		{
			summary: "an error's words, which may have lines", log: func(l *slog.Logger) { l.Error("no", "err", errors.New("a \"b\"\nc")) },
			want: "3 no err=\"a 'b'\nc\" | HATCHERY_ERR=a \"b\"\nc",
		},
		{
			summary: "attributes and groups of a logger", log: func(l *slog.Logger) {
				l.With("slot", 1).WithGroup("link").With("name", "usb0").Warn("away", "mac-address", "00:22")
			},
			want: "4 away slot=1 name=usb0 mac-address=00:22 | HATCHERY_LINK_MAC_ADDRESS=00:22 HATCHERY_LINK_NAME=usb0 HATCHERY_SLOT=1",
		},
		{summary: "what nobody wants to read", log: func(l *slog.Logger) { l.Debug("tick") }},
		{
			summary: "a key that is far too long", log: func(l *slog.Logger) { l.Info("x", strings.Repeat("é", 200), 1) },
			want: "6 x " + strings.Repeat("é", 200) + "=1 | HATCHERY_" + strings.Repeat("_", 55) + "=1",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			var got []string
			test.log(slog.New(systemd.NewJournal(func(message string, p journal.Priority, fields map[string]string) error {
				var all []string
				for _, k := range slices.Sorted(maps.Keys(fields)) {
					all = append(all, k+"="+fields[k])
				}
				got = append(got, fmt.Sprintf("%d %s | %s", p, message, strings.Join(all, " ")))
				return nil
			})))
			if strings.Join(got, "\n") != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

// TestSharedLogger: what one logger adds is not in the entries of another.
func TestSharedLogger(t *testing.T) {
	var got []string
	base := slog.New(systemd.NewJournal(func(message string, _ journal.Priority, fields map[string]string) error {
		got = append(got, fmt.Sprint(message, len(fields)))
		return nil
	})).With("a", 1)
	one, two := base.With("b", 2), base.With("c", 3, "d", 4)
	one.Info("one")
	two.Info("two")
	base.Info("base")
	if want := []string{"one a=1 b=22", "two a=1 c=3 d=43", "base a=11"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
