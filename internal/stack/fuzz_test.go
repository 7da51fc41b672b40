package stack

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzLoad: whatever a file has in it, Load says what is wrong or gives a stack
// that has a digest, in bounded time, and reads no other file.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/deploy/*.yml")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds: ", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	for _, seed := range []string{
		"services: &a {web: *a}", "services: {web: {<<: [*x]}}", "a: &a [*a]", "services: {a: {image: ${A:-${B:-$C}}}}", "services: {a: {ports: ['1-65535:1-65535']}}",
		"services: {a: {image: !!binary aaaa, deploy: {replicas: .nan}}}", "services: {a: {ulimits: {x: {soft: 1}}}}", "services: {a: {env_file: ../../etc/passwd}}",
		"secrets: {a: {file: /etc/passwd}}\nservices: {a: {image: a}}", "services: {a: null}", "services: [a]", "networks: {a: {external: {name: b}}}", "? [a]\n: b\n",
		"services: {a: {image: a, volumes: [{type: x}], ports: [{}], networks: {a: null}, command: \"'\"}}", "services: {a: {image: a:1, extra_hosts: {a: [b]}}}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		begun := time.Now()
		// A folder without a root reads nothing.
		s, err := load(t.Context(), "x.yml", content, &folder{}, Options{Name: "x", Lookup: Variables(map[string]string{"A": "$B", "B": "b"})})
		var errs *Errors
		switch {
		case errors.As(err, &errs):
			if len(errs.Findings) == 0 || s != nil {
				t.Error("it fails for no reason")
			}
			for _, f := range errs.Findings {
				if strings.Contains(f.Message, theirWord) {
					t.Errorf("the shapes take what docker/cli does not: %s", f)
				}
			}
		case errors.Is(err, context.Canceled):
		case err != nil:
			t.Errorf("the error is of another kind: %v", err)
		case s.Digest == "":
			t.Error("it has no digest")
		}
		if time.Since(begun) > 20*time.Second {
			t.Errorf("it took %s", time.Since(begun))
		}
	})
}
