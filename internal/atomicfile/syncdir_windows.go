package atomicfile

// SyncDir does nothing: Windows gives no way to sync a folder, and NTFS
// journals renames by itself.
func SyncDir(string) error { return nil }
