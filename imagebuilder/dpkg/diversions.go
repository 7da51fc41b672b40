package dpkg

import "strings"

const (
	diversionsFile = adminDir + "/diversions"
	// maxTable bounds diversions, statoverride and the trigger files.
	maxTable = 16 << 20
	// maxLine is what dpkg takes for one line of theirs.
	maxLine = 1024
)

// A diversion is one side of a file that lies elsewhere than its packages say
// (dpkg-divert(1)).
type diversion struct {
	to   string // where files of this name go; "" on the other side
	from string // whose files come here; "" on the other side
	by   string // the package that keeps the name for itself; "" for the administrator
}

// readDiversions reads the file of them: three lines each (lib/dpkg/db-fsys-divert.c).
func (db *database) readDiversions() error {
	text, err := db.readText(diversionsFile, maxTable)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	db.diversions, err = parseDiversions(text)
	return err
}

func parseDiversions(text string) (map[string]*diversion, error) {
	all := map[string]*diversion{}
	var three []string
	last := 0
	err := lines(diversionsFile, text, func(number int, line string) error {
		last = number
		if line == "" || len(line) >= maxLine {
			return databaseErrorf(diversionsFile, number, "a line of %d bytes, which is no path and no package", len(line))
		}
		if three = append(three, line); len(three) < 3 {
			return nil
		}
		from, to, by := nodeName(three[0]), nodeName(three[1]), three[2]
		three = nil
		switch {
		case by == ":":
			by = ""
		case !validName(by):
			return databaseErrorf(diversionsFile, number, "%.60q cannot be a package", by)
		}
		if all[from] != nil || all[to] != nil || from == to {
			return databaseErrorf(diversionsFile, number, "a second diversion of %s or to %s", from, to)
		}
		all[from], all[to] = &diversion{to: to, by: strings.ToLower(by)}, &diversion{from: from, by: strings.ToLower(by)}
		return nil
	})
	if err == nil && len(three) > 0 {
		err = databaseErrorf(diversionsFile, last, "the last diversion has %d lines of three", len(three))
	}
	return all, err
}

// diverted is where a package's file lies (src/main/help.c, namenodetouse).
func (db *database) diverted(name string, r *record) string {
	if d := db.diversions[name]; d != nil && d.to != "" && d.by != r.name {
		return d.to
	}
	return name
}
