"""Words and characters that users of an inspection system may type beside the project's own phrases. Pure text."""

ENGLISH = """
about above abnormal accept acceptable across after again all also alloy aluminum always angle anomaly anything appear
appearance area around assembly attention automatic axis back bad base batch bearing because before belt below bent
between big black blade blemish blister block blue board body bolt both box bracket brass break bright broken brown
brush bubble bulb burn burr button came camera can candy cap card careful carton case cast caution cell ceramic certain
chain change check chip circle circuit clean clear clip close cloth coat coating coin color column compare component
concrete condition connector contact copper corner correct corrosion could cover crack cut cylinder damage dark date
deep defect deform dent detail device different dirt dirty disc distance does double down drill dry dust each edge
either electrical electronic empty end enough even every exactly explain fabric face factory fail fault feature fiber
fill film filter find fine finish first fix flange flat flaw food foreign form found fracture frame from front full
function gap gasket gear general glass glossy glove glue good grain gray green grid groove hair handle hard has have
head heavy height help here high hole hook horizontal hose hot how image impact in indent industrial ink insect inside
inspect inspection instead insulation iron item its joint just keep kind know label large laser layer lead leak left
length lens less level light like line liquid little load long look loose low lower machine main make manufacturing
many mark material maybe measure mesh metal middle might minor misaligned missing model mold more most motor move much
nail name near need new next normal not nothing notice number nut object observe often oil okay old only open orange
other out outer outside over oxide package packaging pad paint panel paper part pass pattern piece pill pin pink pipe
pixel place plastic plate please point position possible powder present press print probably problem process product
production proper properly purple quality question quite ready real reason red region reject remove repair replace
report result reverse ridge right rim ring rivet rod roll rough round rubber rust same sample saw scale scrap scratch
screen screw seal seam second see seems serial serious several severe shadow shape sharp sheet shell shift should show
side sign silver similar simple single site size skin slight slightly small smooth socket solder some something sort
spare special spot spring square stage stain standard steel step still stone stop strange strip structure such sure
surface switch symmetric tape tear teeth tell test text than that their them then there these thick thin thing think
this those thread through tight tile tip tiny tire together tool tooth top torn total touch toward tube turn twist two
type uneven unit unusual up upper use used valve variation very visible wall warp was washer waste watch water wear
weave weld well were wet what wheel when where which white whole why wide width will window wire with within without
wood work worn would wrinkle wrong yellow yes you your zinc
"""
"""English words of inspection and everyday questions."""

CHINESE = """
的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还
发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工
已物件部品质检测验查损坏缺陷异常裂纹划痕污渍孔洞凹陷变形弯曲断错位印刷标签表面边缘角落左右上下中央侧方处共几哪什是否吗呢吧请问告诉描述
标出记圈画显示图像照片拍摄相机光线颜色红橙黄绿蓝紫黑白灰棕银金属铜铁钢铝木塑料玻璃陶瓷橡胶皮革布线缝针织编网格板电路元焊接插头芯
螺丝母栓钉齿轮轴承弹簧管瓶盖盒袋包装食药片胶囊糖饼干果豆米面油水液体气泡灰尘毛发纤维铁锈腐蚀磨擦碰撞压折皱烧熔粘漏渗松动脱落缺失多余
尺寸长宽高度面积大约毫米厘米像素百比例数量严重轻微明显细粗更换维修保留清洁合格通过拒收批次生产机器原因建议确认人工再仔细清楚正确应该可
"""
"""Common Chinese characters and those of inspection."""
