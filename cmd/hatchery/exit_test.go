package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/baseimage"
	"hatchery/internal/spec"
)

func TestExitCode(t *testing.T) {
	for _, test := range []struct {
		summary string
		err     error
		code    int
	}{
		{"a failure", errors.New("disk full"), exitFailed},
		{"a wrong call", usageError{errors.New("unknown flag")}, exitUsage},
		{"a cluster file's mistakes", fmt.Errorf("cannot build: %w", &spec.Errors{}), exitUsage},
		{"an unknown target", &spec.UnknownTargetError{}, exitUsage},
		{"a foreign base image", fmt.Errorf("cannot build p1: %w", &imagebuilder.InputError{Err: errors.New("GPT")}), exitUsage},
		{"a wrong digest", &baseimage.InputError{Err: errors.New("digest")}, exitUsage},
		{"mistakes already printed", errors.Join(errReported, &spec.Errors{}), exitUsage},
	} {
		if code := exitCode(test.err); code != test.code {
			t.Errorf("%s: exit code %d, want %d", test.summary, code, test.code)
		}
	}
	if code := run(context.Background(), []string{"no-such-verb"}, discard{}, discard{}); code != exitUsage {
		t.Errorf("an unknown verb: exit code %d, want %d", code, exitUsage)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// TestErrorsAreHarmless: an os-release, a config.txt or a server's answer is
// quoted in messages, and none of them may command the terminal.
func TestErrorsAreHarmless(t *testing.T) {
	for _, test := range []struct{ summary, message, want string }{
		{"plain text", "base \"x\": größer…\n\tsecond line", "base \"x\": größer…\n\tsecond line"},
		{"escape sequences", "the image is x\x1b[2J (\x1b]0;title\a)", `the image is x\x1b[2J (\x1b]0;title\a)`},
		{"C1 controls and line returns", "a\u009bb\rc", `a\u009bb\rc`},
		{"text that runs backwards", "rtl\u202egpj", `rtl\u202egpj`},
		{"bytes that are no text", "\xff\xfe\ufffd", `\xff\xfe` + "\ufffd"},
	} {
		var said strings.Builder
		printError(&said, errors.New(test.message))
		if want := "hatchery: " + test.want + "\n"; said.String() != want {
			t.Errorf("%s: %q, want %q", test.summary, said.String(), want)
		}
	}
}
