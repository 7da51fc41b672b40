package preload

// Locked gives the image that cluster.lock has for a reference on a platform,
// so that nobody is asked what it stands for. The platform is the one that was
// asked for; the image itself may be for an older processor.
func Locked(ref, manifest string, size int64, p Platform) (Pinned, error) {
	parsed, err := parseReference(ref)
	if err != nil {
		return Pinned{}, preloadError(ref, err)
	}
	return Pinned{Ref: ref, Names: []string{parsed.name()}, Digest: manifest, Platform: p, Size: size}, nil
}
