// Package health is what a machine finds of itself: its kernel, its engine, its
// memory and disk, and what is wrong with it that a person should see to. It only
// looks, through files of the kernel's and a few seams; it mends nothing, and what
// it cannot look at it says nothing of.
package health
