package preload

// Locked gives the image that cluster.lock has for a reference on a platform,
// so that nobody is asked what it stands for.
func Locked(ref, manifest string, size int64, p Platform) (Pinned, error) {
	parsed, err := parseLoadable(ref)
	if err != nil {
		return Pinned{}, preloadError(ref, err)
	}
	return Pinned{Ref: ref, Names: []string{parsed.name()}, Digest: manifest, Platform: p, Size: size}, nil
}
