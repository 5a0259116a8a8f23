// Package ear holds Writ's tokens under EAR's names of 2023 against Veraison's client;
// tests only.
package ear
