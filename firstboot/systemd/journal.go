package systemd

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// A Send sends one entry to the journal, as journal.Send does.
type Send func(message string, priority journal.Priority, fields map[string]string) error

// Logger writes entries with fields and priorities where this process's stderr
// goes to the journal, and lines to stderr elsewhere.
func Logger(stderr io.Writer) *slog.Logger {
	if isJournal(os.Stderr, os.Getenv("JOURNAL_STREAM")) && journal.Enabled() {
		return slog.New(NewJournal(nil))
	}
	return slog.New(slog.NewTextHandler(stderr, nil))
}

// A Journal is a slog.Handler that writes entries with fields: MESSAGE,
// PRIORITY, and each attribute by its key in capitals, with HATCHERY_ before
// it. An attribute message_id, in whatever group, is MESSAGE_ID; nothing that
// is lower than info is written.
type Journal struct {
	send   Send
	fields map[string]string
	words  []string // the attributes of With, for MESSAGE
	prefix string
}

// NewJournal gives a handler; send is journal.Send where it is nil.
func NewJournal(send Send) *Journal {
	if send == nil {
		send = journal.Send
	}
	return &Journal{send: send}
}

// Enabled takes what is at least info.
func (j *Journal) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// WithAttrs gives a handler that adds attributes to every entry.
func (j *Journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	more := j.clone()
	for _, a := range attrs {
		more.add(j.prefix, a)
	}
	return more
}

// WithGroup gives a handler whose attributes' keys begin with name.
func (j *Journal) WithGroup(name string) slog.Handler {
	more := j.clone()
	if name != "" {
		more.prefix += name + "_"
	}
	return more
}

// Handle writes an entry. Its MESSAGE is for people and has the attributes
// too, but for groups, which are for programs.
func (j *Journal) Handle(_ context.Context, r slog.Record) error {
	entry := j.clone()
	r.Attrs(func(a slog.Attr) bool {
		entry.add(j.prefix, a)
		return true
	})
	message := strings.Join(append([]string{r.Message}, entry.words...), " ")
	return j.send(message, priority(r.Level), entry.fields)
}

func priority(level slog.Level) journal.Priority {
	switch {
	case level >= slog.LevelError:
		return journal.PriErr
	case level >= slog.LevelWarn:
		return journal.PriWarning
	case level >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}

func (j *Journal) clone() *Journal {
	c := &Journal{send: j.send, prefix: j.prefix, fields: make(map[string]string, len(j.fields)+4), words: j.words[:len(j.words):len(j.words)]}
	for k, v := range j.fields {
		c.fields[k] = v
	}
	return c
}

func (j *Journal) add(prefix string, a slog.Attr) {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "_"
		}
		for _, inner := range value.Group() {
			if inner.Key == "message_id" {
				j.fields["MESSAGE_ID"] = inner.Value.String()
				continue
			}
			j.field(prefix, inner.Key, inner.Value.Resolve())
		}
		return
	}
	if a.Key == "" {
		return
	}
	j.field(prefix, a.Key, value)
	text := value.String()
	if strings.ContainsAny(text, " \n\"") {
		text = `"` + strings.ReplaceAll(text, `"`, `'`) + `"`
	}
	j.words = append(j.words, a.Key+"="+text)
}

// field sets a field. The journal takes capitals, digits and underscores, and
// no more than 64 of them.
func (j *Journal) field(prefix, key string, value slog.Value) {
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, "HATCHERY_"+prefix+key)
	j.fields[name[:min(len(name), 64)]] = value.String()
}
