"""The messages of Terraform's plugin protocol 6 that we speak: fields and their numbers. What else a message has is not read."""

from typing import Final

from cloister.protocol.protobuf import Field, Kind, Message

_FLAG, _WHOLE, _BYTES = Kind.FLAG, Kind.WHOLE, Kind.BYTES

VALUE: Final = Message((Field(1, "msgpack", _BYTES), Field(2, "json", _BYTES)))
"""A value of a schema's type, in one of two forms."""

STEP: Final = Message((Field(1, "attribute_name"), Field(2, "element_key_string"), Field(3, "element_key_int", _WHOLE)))
PATH: Final = Message((Field(1, "steps", STEP, is_list=True),))

ERROR: Final = 1
WARNING: Final = 2
DIAGNOSTIC: Final = Message(
    (Field(1, "severity", _WHOLE), Field(2, "summary"), Field(3, "detail"), Field(4, "attribute", PATH))
)

ATTRIBUTE: Final = Message(
    (
        Field(1, "name"),
        Field(2, "type", _BYTES),
        Field(3, "description"),
        Field(4, "required", _FLAG),
        Field(5, "optional", _FLAG),
        Field(6, "computed", _FLAG),
        Field(7, "sensitive", _FLAG),
    )
)
SCHEMA: Final = Message(
    (
        Field(1, "version", _WHOLE),
        Field(2, "block", Message((Field(2, "attributes", ATTRIBUTE, is_list=True), Field(4, "description")))),
    )
)
_NAMED_SCHEMA: Final = Message((Field(1, "key"), Field(2, "value", SCHEMA)))

_CAPABILITIES: Final = Message((Field(1, "plan_destroy", _FLAG), Field(2, "get_provider_schema_optional", _FLAG)))
_TYPE_NAME: Final = Message((Field(1, "type_name"),))

_NOTHING: Final = Message()


def _complaints(number: int) -> Field:
    return Field(number, "diagnostics", DIAGNOSTIC, is_list=True)


_CONFIG: Final = Message((Field(1, "type_name"), Field(2, "config", VALUE)))
_ONLY_COMPLAINTS: Final = Message((_complaints(1),))

CALLS: Final[dict[str, tuple[Message, Message]]] = {
    "GetMetadata": (
        _NOTHING,
        Message(
            (
                Field(1, "server_capabilities", _CAPABILITIES),
                Field(3, "data_sources", _TYPE_NAME, is_list=True),
                Field(4, "resources", _TYPE_NAME, is_list=True),
                Field(6, "ephemeral_resources", _TYPE_NAME, is_list=True),
            )
        ),
    ),
    "GetProviderSchema": (
        _NOTHING,
        Message(
            (
                Field(1, "provider", SCHEMA),
                Field(2, "resource_schemas", _NAMED_SCHEMA, is_list=True),
                Field(3, "data_source_schemas", _NAMED_SCHEMA, is_list=True),
                _complaints(4),
                Field(5, "provider_meta", SCHEMA),
                Field(6, "server_capabilities", _CAPABILITIES),
                Field(8, "ephemeral_resource_schemas", _NAMED_SCHEMA, is_list=True),
            )
        ),
    ),
    "ValidateProviderConfig": (Message((Field(1, "config", VALUE),)), Message((_complaints(2),))),
    "ConfigureProvider": (Message((Field(1, "terraform_version"), Field(2, "config", VALUE))), _ONLY_COMPLAINTS),
    "ValidateResourceConfig": (_CONFIG, _ONLY_COMPLAINTS),
    "ValidateDataResourceConfig": (_CONFIG, _ONLY_COMPLAINTS),
    "ValidateEphemeralResourceConfig": (_CONFIG, _ONLY_COMPLAINTS),
    "UpgradeResourceState": (
        Message(
            (
                Field(1, "type_name"),
                Field(2, "version", _WHOLE),
                Field(3, "raw_state", Message((Field(1, "json", _BYTES),))),
            )
        ),
        Message((Field(1, "upgraded_state", VALUE), _complaints(2))),
    ),
    "ReadResource": (
        Message((Field(1, "type_name"), Field(2, "current_state", VALUE), Field(3, "private", _BYTES))),
        Message((Field(1, "new_state", VALUE), _complaints(2), Field(3, "private", _BYTES))),
    ),
    "PlanResourceChange": (
        Message(
            (
                Field(1, "type_name"),
                Field(2, "prior_state", VALUE),
                Field(3, "proposed_new_state", VALUE),
                Field(4, "config", VALUE),
                Field(5, "prior_private", _BYTES),
            )
        ),
        Message(
            (
                Field(1, "planned_state", VALUE),
                Field(2, "requires_replace", PATH, is_list=True),
                Field(3, "planned_private", _BYTES),
                _complaints(4),
            )
        ),
    ),
    "ApplyResourceChange": (
        Message(
            (
                Field(1, "type_name"),
                Field(2, "prior_state", VALUE),
                Field(3, "planned_state", VALUE),
                Field(4, "config", VALUE),
                Field(5, "planned_private", _BYTES),
            )
        ),
        Message((Field(1, "new_state", VALUE), Field(2, "private", _BYTES), _complaints(3))),
    ),
    "ImportResourceState": (
        Message((Field(1, "type_name"), Field(2, "id"))),
        Message(
            (
                Field(
                    1, "imported_resources", Message((Field(1, "type_name"), Field(2, "state", VALUE))), is_list=True
                ),
                _complaints(2),
            )
        ),
    ),
    "ReadDataSource": (_CONFIG, Message((Field(1, "state", VALUE), _complaints(2)))),
    "OpenEphemeralResource": (
        _CONFIG,
        Message((_complaints(1), Field(3, "result", VALUE), Field(4, "private", _BYTES))),
    ),
    "CloseEphemeralResource": (Message((Field(1, "type_name"), Field(2, "private", _BYTES))), _ONLY_COMPLAINTS),
    "StopProvider": (_NOTHING, Message((Field(1, "error"),))),
}
"""What Terraform may call: what it says, and what it is answered."""
