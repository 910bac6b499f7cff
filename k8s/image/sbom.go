package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// The parts of SPDX 2.3 that are used here.
type (
	spdxDocument struct {
		Version       string             `json:"spdxVersion"`
		License       string             `json:"dataLicense"`
		ID            string             `json:"SPDXID"`
		Name          string             `json:"name"`
		Namespace     string             `json:"documentNamespace"`
		Creation      spdxCreation       `json:"creationInfo"`
		Packages      []spdxPackage      `json:"packages"`
		Relationships []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		Name         string         `json:"name"`
		ID           string         `json:"SPDXID"`
		Version      string         `json:"versionInfo,omitempty"`
		Location     string         `json:"downloadLocation"`
		Analyzed     bool           `json:"filesAnalyzed"`
		Concluded    string         `json:"licenseConcluded"`
		Declared     string         `json:"licenseDeclared"`
		Copyright    string         `json:"copyrightText"`
		Checksums    []spdxChecksum `json:"checksums,omitempty"`
		ExternalRefs []spdxRef      `json:"externalRefs,omitempty"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxRef struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelationship struct {
		Of   string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
)

const (
	spdxDocumentID = "SPDXRef-DOCUMENT"
	spdxNone       = "NOASSERTION"
	rootsModule    = "golang.org/x/crypto/x509roots/fallback"
)

// newSBOM lists what is in a binary, as the Go linker noted it, and the CA roots beside it.
func newSBOM(binary []byte, arch string, at time.Time) ([]byte, error) {
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		return nil, fmt.Errorf("what is in the binary: %w", err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(binary))
	main := newPackage(info.Main.Path, info.Main.Version)
	main.Checksums = []spdxChecksum{{"SHA256", sum}}
	doc := spdxDocument{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: spdxDocumentID, Name: "tollgate-linux-" + arch,
		Namespace:     "urn:tollgate:sbom:" + sum,
		Creation:      spdxCreation{at.UTC().Format(time.RFC3339), []string{"Tool: tollgate-image"}},
		Packages:      []spdxPackage{main},
		Relationships: []spdxRelationship{{spdxDocumentID, "DESCRIBES", main.ID}},
	}
	modules := map[string]string{"stdlib": strings.TrimPrefix(info.GoVersion, "go"), rootsModule: versionOf(rootsModule)}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		modules[module.Path] = module.Version
	}
	for _, module := range slices.Sorted(maps.Keys(modules)) {
		p := newPackage(module, modules[module])
		doc.Packages = append(doc.Packages, p)
		doc.Relationships = append(doc.Relationships, spdxRelationship{main.ID, "DEPENDS_ON", p.ID})
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	return append(text, '\n'), err
}

// versionOf returns which version of a module this program has.
func versionOf(module string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == module {
				return m.Version
			}
		}
	}
	return ""
}

func newPackage(module, version string) spdxPackage {
	id := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '-'
	}, module)
	return spdxPackage{
		Name: module, ID: "SPDXRef-Package-" + id, Version: version, Location: spdxNone, Concluded: spdxNone, Declared: spdxNone, Copyright: spdxNone,
		ExternalRefs: []spdxRef{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + module + "@" + version}},
	}
}
