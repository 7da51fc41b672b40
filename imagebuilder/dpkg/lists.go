package dpkg

import (
	"path"
	"slices"
	"strings"
)

const (
	// maxList bounds one package's list: the longest real one has some MiB.
	maxList = 64 << 20
	// maxOwned bounds how many files all packages may have; a desktop's have
	// half a million.
	maxOwned = 4 << 20
)

// infoFile is where dpkg keeps a control file of a package.
func infoFile(r *record, kind string) string {
	return path.Join(infoDir, r.infoName()+"."+kind)
}

// readLists reads which files packages have.
func (db *database) readLists() error {
	owned := 0
	for _, r := range db.records {
		if r.state == notInstalled {
			continue
		}
		name := infoFile(r, "list")
		text, err := db.readText(name, maxList)
		if missing(err) {
			continue // dpkg takes it for a package without files
		}
		if err != nil {
			return err
		}
		files, err := parseList(name, text)
		if err != nil {
			return err
		}
		if owned += len(files); owned > maxOwned {
			return databaseErrorf(name, 0, "with it there are more than %d files in packages", maxOwned)
		}
		db.own(r, files)
	}
	return nil
}

// parseList reads a package's list (lib/dpkg/db-fsys-files.c,
// fsys_list_parse_buffer).
func parseList(file, text string) ([]string, error) {
	files := make([]string, 0, strings.Count(text, "\n"))
	err := lines(file, text, func(number int, line string) error {
		if line = strings.TrimSuffix(line, "/"); line == "" {
			return databaseErrorf(file, number, "an empty line")
		}
		if line[0] != '/' {
			line = nodeName(line)
		}
		files = append(files, line)
		return nil
	})
	return files, err
}

// own makes files a package's.
func (db *database) own(r *record, files []string) {
	db.disown(r)
	r.files, r.owns = files, true
	for _, f := range files {
		db.owners[f] = append(db.owners[f], r)
	}
}

func (db *database) disown(r *record) {
	if !r.owns {
		return
	}
	for _, f := range r.files {
		list := slices.DeleteFunc(db.owners[f], func(other *record) bool { return other == r })
		if len(list) == 0 {
			delete(db.owners, f)
		} else {
			db.owners[f] = list
		}
	}
	r.files, r.owns = nil, false
}

// writeList writes which files a package has, and makes them its own.
func (db *database) writeList(r *record, files []string) error {
	db.own(r, files)
	var b strings.Builder
	for _, f := range files {
		b.WriteString(f + "\n")
	}
	return db.write(infoFile(r, "list"), b.String(), 0o644)
}
