"""What fakes are made of: names that thousands have, places and companies that nobody has.

Words have no comma, because a list travels as one text, and are plain ASCII, so that they fit a database of any encoding.
Domains are those of RFC 2606, which nobody can register. Numbers of telephones are out of the ranges that are kept for
fiction: 555-0100 to 555-0199 of every area code in North America, and Ofcom's 07700 900000 to 900999.
"""

from typing import Final

FIRST_NAMES: Final = tuple(
    "Ada Alan Amara Anna Arjun Beatrice Ben Carla Chen Clara Daniel Diego Elena Elias Emma Erik Fatima Felix Freya Grace "
    "Hana Hugo Ines Ivan Jakob Jana Jonas Kai Karin Laila Leo Lucia Malik Maria Marta Milan Nadia Nina Noah Olga Omar Paula "
    "Peter Rosa Samir Sofia Tom Yuki".split()
)
LAST_NAMES: Final = tuple(
    "Adler Almeida Baker Bauer Becker Berg Brooks Castro Cooper Costa Cruz Dahl Dubois Evans Fischer Garcia Hansen Haddad "
    "Hill Ivanova Jansen Keller Khan Kowalski Larsen Lopez Martin Meyer Moreau Murphy Nakamura Novak Okafor Olsen Park Patel "
    "Petrov Reyes Rossi Santos Schmidt Silva Singh Tanaka Taylor Vogel Weber Young".split()
)
CITIES: Final = tuple(
    "Alderport Ambleworth Ashenfield Barrowmere Birchhaven Brackenford Brightwater Calderwick Cedarholm Clearbrook Copperdale "
    "Cragmouth Dunmarsh Eastermoor Elmsgate Fairhollow Fernbridge Foxley-on-Wold Glimmerton Greywharf Harrowdean Hazelcombe "
    "Highlarch Ivorystone Juniper-Falls Kestrelton Larkspring Lindenau-am-See Marrowby Millrace Mossgate Northquay Oakenshaw "
    "Otterbourne-Vale Pinecrest-Bay Quillford Ravenmoor Rowanhurst Saltmere Silverbeck Stonewick Tarnholm Thistledown Umberlake "
    "Vintergate Westering Willowmead Yarrowton".split()
)
COUNTRIES: Final = tuple(
    "Argentina,Australia,Austria,Belgium,Brazil,Bulgaria,Canada,Chile,Colombia,Croatia,Denmark,Egypt,Estonia,Finland,France,"
    "Germany,Ghana,Greece,Hungary,Iceland,India,Indonesia,Ireland,Italy,Japan,Kenya,Latvia,Lithuania,Luxembourg,Malaysia,"
    "Mexico,Morocco,Netherlands,New Zealand,Nigeria,Norway,Peru,Poland,Portugal,Romania,Slovakia,Slovenia,South Africa,Spain,"
    "Sweden,Switzerland,Thailand,Uruguay".split(",")
)
COMPANIES: Final = tuple(
    "Amber Lantern,Anvil & Thread,Blue Kettle,Bramble Works,Brass Compass,Candlewick,Cinder & Oak,Clockwork Orchard,Copper Finch,"
    "Dovetail,Driftwood Bay,Eleven Lamps,Fathom Line,Fieldstone,Flint & Feather,Golden Bobbin,Grey Heron,Hearthside,Hollow Reed,"
    "Ink & Anchor,Ironleaf,Ivory Thimble,Juniper Row,Kestrel Hill,Lacework,Lighthouse Nine,Marble Hare,Mill & Meadow,Morning Tide,"
    "North Pier,Oak & Ember,Paper Crane,Pebble Beach,Pinewheel,Quarry Lane,Quill & Co,Red Barrel,Rivet Brothers,Sable Fox,"
    "Salt & Slate,Silver Spindle,Spruce & Sorrel,Tall Ship,Tin Whistle,Umbra,Velvet Harbour,Wandering Star,Yellow Door".split(
        ","
    )
)
COMPANY_SUFFIXES: Final = tuple("Ltd,Inc,LLC,Group,Partners,GmbH,SA,BV".split(","))
STREETS: Final = tuple(
    "Acorn Alder Apple Ash Bakers Beech Birch Bluebell Bramble Bridge Castle Cedar Chapel Cherry Church Clover Elm Fern Field "
    "Garden Granary Harbour Hawthorn Hazel Heather Hill Holly Ivy Juniper Lake Larch Lilac Linden Maple Meadow Mill Oak Orchard "
    "Park Pine Poplar Rose Rowan School Spring Station Walnut Willow".split()
)
STREET_SUFFIXES: Final = tuple("Street Lane Road Avenue Way Close Square Walk".split())
EMAIL_DOMAINS: Final = ("example.com", "example.net", "example.org")
AREA_CODES: Final = tuple(
    "201 202 203 205 206 207 208 209 210 212 213 214 215 216 217 218 301 302 303 304 305 307 308 309 310 312 313 314 315 316 "
    "401 402 404 405 406 408 409 410 412 413 414 415 501 502 503 504 505 507".split()
)
LOREM: Final = tuple(
    "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna aliqua "
    "ut enim ad minim veniam quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo consequat duis aute irure "
    "dolor in reprehenderit in voluptate velit esse cillum eu fugiat nulla pariatur excepteur sint occaecat cupidatat non "
    "proident sunt in culpa qui officia deserunt mollit anim id est laborum".split()
)
"""Cicero's, as printers have set them for five hundred years: each has at least two letters."""
