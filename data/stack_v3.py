"""The Stack v3: repositories with the contents of their files inline, redacted.

The columns are those of HuggingFaceCode/stack-v3-train, where a row is a repository: `repo_path`,
`commit_id` and a list `files` of `content_id`, `content`, `file_path`, `language`, `is_vendor`,
`license_type` and `detected_licenses`. Contents are UTF-8 and may be redacted, so that `content_id`
names the file as it was and cannot be checked. Rows that are files, with the same names, are read
as well. The parts of stack-v3-full, contents apart from metadata, are not.
"""

FIELDS = {
    "path": ("files.file_path", "files.path", "file_path", "path"),
    "repository": ("repo_path", "repo_name"),
    "revision": ("commit_id", "revision_id"),
    "content_id": ("files.content_id", "content_id"),
    "licences": ("files.detected_licenses", "detected_licenses"),
    "is_vendored": ("files.is_vendor", "is_vendor"),
    "is_generated": ("files.is_generated", "is_generated"),
    "content": ("files.content", "content"),
    "language": ("files.language", "language"),
}
NEEDED = ("path", "content", "language")
