package imagebuilder_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"hatchery/imagebuilder"
	"hatchery/internal/spec"
)

// BenchmarkBuild times the whole pipeline inside one process, on the stand-in
// base named by HATCHERY_BASE_BOOKWORM, with the base in the cache.
func BenchmarkBuild(b *testing.B) {
	base := os.Getenv("HATCHERY_BASE_BOOKWORM")
	if base == "" {
		b.Skip("needs HATCHERY_BASE_BOOKWORM=$(make -s print-base)")
	}
	dir := b.TempDir()
	b.Setenv("SOURCE_DATE_EPOCH", "1763769600")
	load := func(name, more string) *spec.Cluster {
		key := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx5a0Vd1zXVx6y0dJmQ8Qm3i1r7pM0ZbS2jJx0k7r3E bench"
		text := fmt.Sprintf("name: bench\nbase: {image: %s}\nuser: {authorized_keys: [%q]}\n%sdocker: {packages: []}\n", base, key, more)
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
		cluster, err := spec.Load(path)
		if err != nil {
			b.Fatal(err)
		}
		return cluster
	}
	clusters := []*spec.Cluster{load("one.yaml", ""), load("two.yaml", "slots: {p1: {}, p2: {hostname: carter}, p3: {}, p4: {}}\n")}
	build := func(b *testing.B, c *spec.Cluster, o imagebuilder.Options) {
		o.Cache = filepath.Join(dir, "cache")
		if _, err := imagebuilder.Build(context.Background(), c, o); err != nil {
			b.Fatal(err)
		}
	}
	layers := imagebuilder.Options{Out: filepath.Join(dir, "layers"), LayersOnly: true}
	images := imagebuilder.Options{Out: filepath.Join(dir, "images")}
	build(b, clusters[0], layers)
	b.Run("five layers", func(b *testing.B) {
		for b.Loop() {
			build(b, clusters[0], layers)
		}
	})
	build(b, clusters[0], images)
	b.Run("one host name changed", func(b *testing.B) {
		for i := 1; b.Loop(); i++ {
			build(b, clusters[i%2], images)
		}
	})
	quick := images
	quick.NoSums = true
	b.Run("one host name changed, no SHA256SUMS", func(b *testing.B) {
		for i := 1; b.Loop(); i++ {
			build(b, clusters[i%2], quick)
		}
	})
	b.Run("plan of five", func(b *testing.B) {
		for b.Loop() {
			if _, err := imagebuilder.Plan(context.Background(), clusters[0], imagebuilder.Options{Cache: filepath.Join(dir, "cache")}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
