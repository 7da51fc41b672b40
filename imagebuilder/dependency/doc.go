// Package dependency decides which Debian packages are to be installed so
// that the wanted ones work: in which versions, and in which order.
//
// A [Universe] is what there is to choose from: the indexes of package
// archives, and dpkg's status of the image. Its records are compact, so that
// Debian's 60,000 packages fit into some tens of megabytes: of a paragraph
// only what decides is kept, as text, and relations are parsed when a package
// comes into question.
//
// [Universe.Resolve] chooses in two ways. First as APT's classic resolver
// does, depth first, the first alternative that can be had (see chooser): where that
// works the outcome is APT's. Where it runs into a conflict, APT's repairs
// are a matter of scores, and removing what is installed is one of them.
// Here a search takes over that goes back on earlier choices, learns from
// each conflict, and so finds a solution wherever there is one (see search).
// Where there is none, what it learned is the explanation.
//
// What the image has stays: nothing is ever removed, and nothing is upgraded
// unless [Options].Upgrade says so.
//
// Sources: Debian Policy chapter 7 (relationships), deb-control(5), the
// multi-arch specification, apt_preferences(5); and APT 2.6 and 3.0, whose
// simulation is the judge in the tests.
package dependency
